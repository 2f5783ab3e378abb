//! The documentation describes everything that exists, and only that.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use authgear::verdict::Reason;
use serde_json::Value;
use support::{eventually, get, Nginx, DEADLINE};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn pages() -> Vec<PathBuf> {
    let files = |folder: &str, end: &str| -> Vec<PathBuf> {
        let files = fs::read_dir(root().join(folder)).expect("a folder");
        let paths = files.map(|file| file.expect("a file").path());
        paths.filter(|path| path.to_string_lossy().ends_with(end)).collect()
    };
    let pages = [files("", ".md"), files("docs", ".md"), files("bench", ".md")].concat();
    assert!(pages.len() >= 5, "{pages:?}");
    pages
}

/// A heading as GitHub names it in links.
fn anchor(heading: &str) -> String {
    let kept = heading.trim().chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c.to_ascii_lowercase() }).collect()
}

#[test]
fn links_of_the_documentation_have_targets() {
    for page in pages() {
        for link in read(&page).split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.contains("://") {
                continue;
            }
            let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => page.clone(),
                file => page.parent().expect("a folder").join(file),
            };
            let link_in_page = format!("{link} in {}", page.display());
            assert!(target.exists(), "{link_in_page}");
            if !fragment.is_empty() {
                let headings = read(&target);
                let headings = headings.lines().filter(|line| line.starts_with('#'));
                let mut headings = headings.map(|line| anchor(line.trim_start_matches('#')));
                assert!(headings.any(|heading| heading == fragment), "{link_in_page}");
            }
        }
    }
}

/// Tests that SECURITY.md names as evidence exist.
#[test]
fn tests_named_in_security_md_exist() {
    let text = read(&root().join("SECURITY.md"));
    // A folder's file stands before the last `::`.
    let names = text.split('`').skip(1).step_by(2).filter_map(|code| code.rsplit_once("::"));
    let names: Vec<_> = names.filter(|(file, _)| !file.starts_with("token")).collect();
    assert!(names.len() > 30, "{names:?}");
    for (file, name) in names {
        let tests = read(&root().join(format!("tests/{}.rs", file.replace("::", "/"))));
        let found = name.is_empty() || tests.contains(&format!("fn {name}()"));
        assert!(found, "{file}::{name}");
    }
}

#[test]
fn every_reason_is_documented() {
    let text = read(&root().join("docs/directives.md"));
    for reason in Reason::ALL {
        assert!(text.contains(&format!("`{}`", reason.as_str())), "{}", reason.as_str());
    }
}

#[test]
fn every_directive_and_setting_is_documented() {
    let text = read(&root().join("docs/directives.md"));
    let mut directives = Vec::new();
    for file in fs::read_dir(root().join("src/conf")).expect("the directives") {
        let source = read(&file.expect("a file").path());
        let names = source.split("const NAME: &'static CStr = c\"").skip(1);
        directives.extend(names.filter_map(|rest| rest.split('"').next()).map(str::to_owned));
    }
    assert!(directives.len() >= 15, "{directives:?}");
    for name in directives {
        assert!(text.contains(&format!("\n### {name}\n")), "{name}");
    }
    let source = read(&root().join("src/conf/project_block.rs"));
    let (_, lines) = source.split_once("match key {").expect("settings");
    let (lines, _) = lines.split_once("unknown setting").expect("their end");
    let settings: Vec<_> = (lines.lines())
        .filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" =>"))
        .map(|(name, _)| name)
        .collect();
    assert!(settings.len() >= 20, "{settings:?}");
    for name in settings {
        assert!(text.contains(&format!("\n| `{name} ")), "{name}");
    }
}

/// Text of each message that a file formats for a log, with `...` for values.
fn logged(source: &str, macros: &[&str]) -> Vec<String> {
    let mut all = Vec::new();
    for name in macros {
        for rest in source.split(&format!("{name}(")).skip(1) {
            let Some(literal) = rest.trim_start().strip_prefix('"') else { continue };
            let mut text = String::new();
            let mut chars = literal.chars();
            let mut depth = 0;
            while let Some(c) = chars.next() {
                match (c, depth) {
                    ('"', _) => break,
                    ('\\', _) => match chars.next() {
                        Some('\n') => {
                            let rest = chars.as_str().trim_start();
                            chars = rest.chars();
                        }
                        Some(escaped) => text.push(escaped),
                        None => break,
                    },
                    ('{', 0) if chars.as_str().starts_with('{') => {
                        chars.next();
                        text.push('{');
                    }
                    ('}', 0) => {
                        chars.next();
                        text.push('}');
                    }
                    ('{', 0) => {
                        depth = 1;
                        text.push_str("...");
                    }
                    ('}', _) => depth = 0,
                    (c, 0) => text.push(c),
                    _ => {}
                }
            }
            all.push(text.replace("......", "..."));
        }
    }
    all
}

#[test]
fn each_line_of_the_log_and_each_reason_is_in_the_page_for_trouble() {
    /// Shorter text is that of a wrapper, such as `{message} in {place}`.
    const LEAST: usize = 8;
    let page = read(&root().join("docs/troubleshooting.md"));
    for reason in Reason::ALL {
        assert!(page.contains(&format!("\n| `{}` | ", reason.as_str())), "{}", reason.as_str());
    }
    let mut files = Vec::new();
    for folder in ["src", "nginx/src"] {
        let mut folders = vec![root().join(folder)];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                match path.is_dir() {
                    true => folders.push(path),
                    false => files.push(path),
                }
            }
        }
    }
    let mut count = 0;
    for file in files {
        let source = read(&file);
        // The checks of nginx -t make some of their texts before.
        let is_lint = file.ends_with("src/conf/lint.rs");
        let macros: &[&str] =
            if is_lint { &["format_args!", "format!"] } else { &["format_args!"] };
        for text in logged(&source, macros) {
            let fixed: usize = text.split("...").map(str::len).sum();
            if fixed < LEAST {
                continue;
            }
            count += 1;
            assert!(page.contains(&text), "{}: {text:?} is not in the page", file.display());
        }
        for line in
            source.split("let message = \"").skip(1).filter(|_| source.contains("Level::Warn"))
        {
            let text = logged(&format!("m!(\"{line}"), &["m!"]).remove(0);
            assert!(page.contains(&text), "{}: {text:?} is not in the page", file.display());
        }
    }
    assert!(count > 50, "{count}");
}

#[test]
fn each_page_is_in_the_readme() {
    let readme = read(&root().join("README.md"));
    for page in fs::read_dir(root().join("docs")).expect("the pages") {
        let name = page.expect("a page").file_name().into_string().expect("a name");
        if name.ends_with(".md") {
            assert!(readme.contains(&format!("](docs/{name})")), "{name}");
        }
    }
}

/// The format of docs/operating.md, as it stands there.
#[test]
fn the_json_log_is_json_whatever_a_client_sends() {
    let page = read(&root().join("docs/operating.md"));
    let (_, rest) = page.split_once("log_format authgear_json ").expect("the format");
    let (format, _) = rest.split_once("\n```").expect("its end");
    // One worker: lines of several may be in another order.
    let nginx = Nginx::builder()
        .workers(1)
        .http(format!("log_format authgear_json {format}"))
        .server(
            "access_log json.log authgear_json;
             location / { authgear https://192.0.2.1; empty_gif; }
             location /open { authgear off; empty_gif; }
             location /users { authgear https://192.0.2.1; authgear_require session; }",
        )
        .start();
    let agent = "a\"b\\c\u{e9}";
    for path in ["/", "/open?access_token=secret", "/users"] {
        get(&nginx, path).header("User-Agent", agent).send();
    }
    let file = nginx.dir().join("json.log");
    let lines = || fs::read_to_string(&file).unwrap_or_default();
    assert!(eventually(DEADLINE, || lines().lines().count() == 3), "{}", lines());
    let lines: Vec<Value> = (lines().lines())
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect();
    for (line, status, reason) in [
        (&lines[0], 200, "no_credentials"),
        (&lines[1], 200, ""),
        (&lines[2], 401, "no_credentials"),
    ] {
        assert_eq!(line["status"], status, "{line}");
        assert_eq!(line["reason"], reason, "{line}");
        assert_eq!(line["user_agent"], agent, "{line}");
    }
    assert!(!lines[1].to_string().contains("secret"));
}

/// The first configuration of README.md, as it stands there, by the nginx that reads it as its own.
#[test]
fn nginx_accepts_the_first_configuration_of_the_readme() {
    let readme = read(&root().join("README.md"));
    let block = readme.split("```nginx\n").nth(1).and_then(|rest| rest.split("```").next());
    let dir = tempfile::tempdir().expect("a folder");
    for folder in ["modules", "logs"] {
        fs::create_dir(dir.path().join(folder)).expect("a folder");
    }
    fs::write(dir.path().join("nginx.conf"), block.expect("a configuration")).expect("a file");
    let module = dir.path().join("modules/ngx_http_authgear_module.so");
    std::os::unix::fs::symlink(support::module_path(), module).expect("a link");
    let nginx = std::env::var("AUTHGEAR_NGINX").unwrap_or_else(|_| "/usr/sbin/nginx".into());
    let pid = format!("pid {}/nginx.pid;", dir.path().display());
    let tested = Command::new(nginx)
        .args(["-t", "-e", "stderr", "-c", "nginx.conf", "-g", &pid, "-p"])
        .arg(dir.path())
        .output()
        .expect("nginx");
    let output = String::from_utf8_lossy(&tested.stderr);
    assert!(tested.status.success(), "{output}");
    for line in output.lines().filter(|line| line.contains("[warn]")) {
        assert!(line.contains("the name servers of /etc/resolv.conf will be asked"), "{line}");
    }
}

/// The table of systems in `docs/install.md` is written by the script, from what was run.
#[test]
fn the_table_of_systems_is_that_of_what_was_run() {
    let output = Command::new(root().join("packaging/install-table.py")).arg("--check").output();
    let output = output.expect("python3");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
