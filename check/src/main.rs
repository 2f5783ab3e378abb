//! `authgear-check`: checks an nginx configuration that uses Authgear, and the Authgear that it
//! names. `docs/checking.md` describes its use.

#![forbid(unsafe_code)]
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)
)]

mod coverage;
mod dns;
mod exchange;
mod files;
mod finding;
mod lines;
mod live;
mod module;
mod places;
mod project;
mod settings;
mod site;
mod source;
mod syntax;

use std::ffi::OsString;
use std::fs::{self, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use coverage::Format;
use finding::{Problem, Report};
use module::Nginx;
use site::Site;

const HELP: &str = "\
Usage: authgear-check [OPTION]... [FILE]

Checks an nginx configuration that uses Authgear, and asks the Authgear that it names.
FILE is a configuration or the output of nginx -T; - is standard input. Without FILE, the
configuration of the installed nginx is read.

  --coverage       list who gets in at each server and location, and check nothing
  --format FORM    text, json, or with --coverage markdown
  --json           as --format json
  --output FILE    write to FILE, which only its owner can read
  --offline        make no connection
  --ignore IDS     leave out findings with these ids, separated by commas
  --nginx FILE     the nginx binary that loads the module
  --help           this text
  --version        the version

Exit status: 0 without findings, 1 with findings, 2 if the configuration could not be checked.
";

/// Exit status for a wrong use, and for what cannot be checked.
const NOT_CHECKED: u8 = 2;

#[derive(Default)]
struct Options {
    file: Option<PathBuf>,
    coverage: bool,
    format: Option<Format>,
    output: Option<PathBuf>,
    offline: bool,
    ignored: Vec<Problem>,
    nginx: Option<PathBuf>,
}

/// The run that the arguments ask for.
enum Request {
    Print(String),
    Run(Options),
}

fn main() -> ExitCode {
    match read_arguments().and_then(|request| match request {
        Request::Print(text) => print(&text).map(|()| 0),
        Request::Run(options) => run(&options),
    }) {
        Ok(status) => status.into(),
        Err(message) => {
            eprintln!("authgear-check: {message}");
            NOT_CHECKED.into()
        }
    }
}

fn read_arguments() -> Result<Request, String> {
    use lexopt::prelude::*;
    let mut options = Options::default();
    let mut parser = lexopt::Parser::from_env();
    let wrong = |error: lexopt::Error| format!("{error}; see authgear-check --help");
    while let Some(argument) = parser.next().map_err(wrong)? {
        match argument {
            Long("help") | Short('h') => return Ok(Request::Print(HELP.into())),
            Long("version") | Short('V') => {
                let version = env!("CARGO_PKG_VERSION");
                return Ok(Request::Print(format!("authgear-check {version}\n")));
            }
            Long("coverage") => options.coverage = true,
            Long("json") => options.format = Some(Format::Json),
            Long("format") => options.format = Some(format(&parser.value().map_err(wrong)?)?),
            Long("output") | Short('o') => {
                options.output = Some(parser.value().map_err(wrong)?.into())
            }
            Long("offline") => options.offline = true,
            Long("ignore") => options.ignored.extend(problems(&parser.value().map_err(wrong)?)?),
            Long("nginx") => options.nginx = Some(parser.value().map_err(wrong)?.into()),
            Value(file) if options.file.is_none() => options.file = Some(file.into()),
            other => return Err(wrong(other.unexpected())),
        }
    }
    if options.format == Some(Format::Markdown) && !options.coverage {
        return Err("--format markdown is for --coverage".into());
    }
    Ok(Request::Run(options))
}

fn format(value: &OsString) -> Result<Format, String> {
    match value.to_str() {
        Some("text") => Ok(Format::Text),
        Some("json") => Ok(Format::Json),
        Some("markdown") => Ok(Format::Markdown),
        _ => Err("--format is text, json or markdown".into()),
    }
}

fn problems(value: &OsString) -> Result<Vec<Problem>, String> {
    let words = value.to_string_lossy().into_owned();
    let problem = |word: &str| {
        let known = Problem::ALL.iter().find(|problem| problem.word() == word);
        known.copied().ok_or_else(|| format!("no finding has the id \"{word}\""))
    };
    words.split(',').map(problem).collect()
}

fn run(options: &Options) -> Result<u8, String> {
    let nginx = match options.nginx.clone() {
        Some(binary) => Some(Nginx::ask(&binary)?),
        None => Nginx::find().and_then(|binary| Nginx::ask(&binary).ok()),
    };
    let (file, text) = input(options.file.as_deref(), nginx.as_ref())?;
    let source = source::read(&file, text).map_err(|error| error.to_string())?;
    let site = Site::new(&source.directives);
    let format = options.format.unwrap_or(Format::Text);
    let (text, status) = if options.coverage {
        (coverage::report(&coverage::rows(&site), format), 0)
    } else {
        let mut report = check(&site, &source.folder, nginx.as_ref(), options);
        report.findings.retain(|finding| !options.ignored.contains(&finding.problem));
        let text = if format == Format::Json { report.json() } else { report.text() };
        (text, u8::from(!report.findings.is_empty()))
    };
    match &options.output {
        Some(file) => write(file, &text)
            .map_err(|error| format!("cannot write \"{}\": {error}", file.display()))?,
        None => print(&text)?,
    }
    Ok(status)
}

fn check(site: &Site<'_>, folder: &Path, nginx: Option<&Nginx>, options: &Options) -> Report {
    let mut report = Report::default();
    match nginx {
        Some(nginx) => module::check(site, Some(nginx), &mut report),
        None => report.skip("the module: no nginx was found; name it with --nginx"),
    }
    let uses = project::used(site, folder, &mut report);
    places::check(site, &uses, &mut report);
    lines::check(site, &mut report);
    files::check_webhooks(site, folder, &mut report);
    for found in &uses {
        files::check_project(&found.project, found.verifies_tokens(), &mut report);
        if options.offline {
            report.skip(format!("the servers of project \"{}\": --offline", found.project.name));
        } else {
            live::check(found, &mut report);
        }
    }
    report
}

/// Name and content of the input.
fn input(file: Option<&Path>, nginx: Option<&Nginx>) -> Result<(PathBuf, String), String> {
    let file = match (file, nginx) {
        (Some(file), _) if file == Path::new("-") => {
            let mut bytes = Vec::new();
            let read = io::stdin().read_to_end(&mut bytes);
            read.map_err(|error| format!("cannot read standard input: {error}"))?;
            // Relative names in a plain file are those of this folder.
            let name = std::env::current_dir().unwrap_or_default().join("standard input");
            return Ok((name, String::from_utf8_lossy(&bytes).into_owned()));
        }
        (Some(file), _) => std::path::absolute(file).unwrap_or_else(|_| file.to_owned()),
        (None, Some(nginx)) => nginx.conf.clone(),
        (None, None) => return Err("no nginx was found: name a configuration".into()),
    };
    let bytes = fs::read(&file);
    let bytes = bytes.map_err(|error| format!("cannot read \"{}\": {error}", file.display()))?;
    Ok((file, String::from_utf8_lossy(&bytes).into_owned()))
}

fn print(text: &str) -> Result<(), String> {
    match io::stdout().write_all(text.as_bytes()) {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|error| format!("cannot write: {error}")),
    }
}

/// Writes a file that only its owner can read, also in place of one that others could.
fn write(file: &Path, text: &str) -> io::Result<()> {
    const OWNER_ONLY: u32 = 0o600;
    let mut name = file.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let temporary = PathBuf::from(name);
    let mut created =
        OpenOptions::new().write(true).create_new(true).mode(OWNER_ONLY).open(&temporary)?;
    let written = created.write_all(text.as_bytes()).and_then(|()| fs::rename(&temporary, file));
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}
