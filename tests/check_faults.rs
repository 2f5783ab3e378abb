//! `authgear-check` on configurations with a fault each, and on good ones.
//!
//! `check/faults/*.conf` are faults and `check/good/*.conf` good configurations that somebody wrote
//! who did not write the program; `check/own/*.conf` are those of its author. A file begins with
//! `# expect: ID`, ids of docs/checking.md with commas, or `nothing`. Further lines of comments set
//! the scene:
//!
//! | line | meaning |
//! |---|---|
//! | `# fake: cookie_domain D`, `cookie_prefix P` | settings of the fake Authgear |
//! | `# fake: origin URL` | its public origin; by default the first `http://` or `https://` URL of the file with its port |
//! | `# fake: any_host` | it knows every host |
//! | `# fake: tls NAME`, `tls_expired NAME`, `tls_self_signed NAME` | its certificate, of an authority in `%%CA%%` |
//! | `# fake: website`, `blank`, `down` | every answer is a page; has no identity; nobody answers |
//! | `# fake: status PATH STATUS` | the answer at a path, with a text as its body |
//! | `# fake: clock SECONDS` | difference of its clock |
//! | `# dns: NAME ADDRESS` | a name at the name server `%%DNS%%`, which knows no other |
//! | `# file: NAME MODE TEXT` | a file beside the configuration; MODE is octal |
//!
//! Placeholders are `%%PORT%%` of the fake, `%%REFUSED%%` (a port where nobody listens), `%%DNS%%`,
//! `%%CA%%`, `%%DIR%%`, `%%MODULE%%`, `%%MODULE_OF_OTHER_VERSION%%` and
//! `%%MODULE_OF_OTHER_SIGNATURE%%`. No output may contain `s3cret`.

use std::collections::BTreeSet;
use std::fs::{self, Permissions};
use std::net::IpAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use support::{Ca, FakeAuthgear, FakeDns, Fault, RefusedAddr, ServerIdentity};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_authgear-check");

fn run(arguments: &[&str], input: Option<&str>) -> Output {
    use std::io::Write as _;
    let mut command = Command::new(PROGRAM);
    let nginx = std::env::var_os("AUTHGEAR_NGINX");
    command.args(nginx.iter().flat_map(|nginx| ["--nginx".as_ref(), nginx.as_os_str()]));
    let mut child = command
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("authgear-check");
    let mut stdin = child.stdin.take().expect("its input");
    stdin.write_all(input.unwrap_or_default().as_bytes()).ok();
    drop(stdin);
    child.wait_with_output().expect("its output")
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

/// The module that the other tests load.
fn module() -> PathBuf {
    let built = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../target/release/libngx_http_authgear_module.so");
    std::env::var_os("AUTHGEAR_MODULE").map_or(built, PathBuf::from)
}

/// A scene of one file: everything in it lives as long as this.
struct Scene {
    dir: TempDir,
    conf: String,
    expected: BTreeSet<String>,
    _authgear: FakeAuthgear,
    _dns: FakeDns,
    _refused: RefusedAddr,
}

/// Words after `# KIND: ` in the comments of a file.
fn lines<'a>(conf: &'a str, kind: &'a str) -> impl Iterator<Item = Vec<&'a str>> {
    let rest = move |line: &'a str| line.strip_prefix("# ")?.strip_prefix(kind)?.strip_prefix(": ");
    conf.lines().filter_map(rest).map(|rest| rest.split_whitespace().collect())
}

impl Scene {
    fn of(file: &Path) -> Self {
        let conf = fs::read_to_string(file).expect("a file");
        let dir = tempfile::tempdir().expect("a folder");
        let refused = RefusedAddr::bind();
        let dns = FakeDns::start("127.0.0.1:0");
        for words in lines(&conf, "dns") {
            let address: IpAddr = words[1].parse().expect("an address");
            dns.set(words[0], &[address], 60);
        }
        let ca = dir.path().join("ca.pem");
        // The port is known before the fake starts: its origin has it.
        let port = free_port();
        let settings = |text: &str| text.replace("%%PORT%%", &port.to_string());
        let (builder, trusted) = builder(&settings(&conf), port);
        fs::write(&ca, trusted).expect("a file");
        let authgear = builder.start();
        spoil(&authgear, &conf);
        let placed = dir.path().join("modules");
        // A copy takes a while.
        let copy = |name: &str, from: &[u8], to: &[u8]| match conf.contains(name) {
            true => spoilt_module(&placed.join(name), from, to),
            false => String::new(),
        };
        let signature = copy("OTHER_SIGNATURE", b",00", b",01");
        let version = copy("OTHER_VERSION", &version(), &1_099_099u64.to_le_bytes());
        let values = [
            ("PORT", port.to_string()),
            ("REFUSED", refused.addr().port().to_string()),
            ("DNS", dns.addr().to_string()),
            ("CA", ca.display().to_string()),
            ("DIR", dir.path().display().to_string()),
            ("MODULE", linked_module(&placed)),
            ("MODULE_OF_OTHER_SIGNATURE", signature),
            ("MODULE_OF_OTHER_VERSION", version),
        ];
        let filled = |text: &str| {
            let fill = |text: String, (name, value): &(&str, String)| {
                text.replace(&format!("%%{name}%%"), value)
            };
            values.iter().fold(text.to_owned(), fill)
        };
        for line in conf.lines().filter_map(|line| line.strip_prefix("# file: ")) {
            let mut words = line.splitn(3, ' ');
            let mut word = || words.next().expect("name, mode and text");
            let (file, mode) = (dir.path().join(word()), word());
            fs::write(&file, filled(word()) + "\n").expect("a file");
            let mode = u32::from_str_radix(mode, 8).expect("a mode");
            fs::set_permissions(&file, Permissions::from_mode(mode)).expect("a mode");
        }
        let first = conf.lines().next().and_then(|line| line.strip_prefix("# expect: "));
        let expected = first.unwrap_or_else(|| panic!("{}: no `# expect: `", file.display()));
        let expected = expected.split(", ").filter(|word| *word != "nothing");
        let scene = Self {
            expected: expected.map(str::to_owned).collect(),
            conf: dir.path().join("nginx.conf").display().to_string(),
            dir,
            _authgear: authgear,
            _dns: dns,
            _refused: refused,
        };
        fs::write(&scene.conf, filled(&conf)).expect("a file");
        scene
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("its address").port()
}

/// The authority of all certificates: a key takes a while to make.
fn authority() -> &'static Ca {
    static CA: OnceLock<Ca> = OnceLock::new();
    CA.get_or_init(Ca::new)
}

/// The fake of a file, and the certificates to trust.
fn builder(conf: &str, port: u16) -> (support::FakeAuthgearBuilder, String) {
    let mut builder = FakeAuthgear::builder().listen(&format!("127.0.0.1:{port}"));
    let urls = conf.lines().filter(|line| !line.starts_with('#'));
    let urls = urls.flat_map(|line| line.split([' ', ';']));
    let own =
        urls.into_iter().find(|word| word.contains("://") && word.ends_with(&format!(":{port}")));
    if let Some(origin) = own {
        builder = builder.origin(origin);
    }
    let ca = authority();
    let mut trusted = ca.pem().to_owned();
    for words in lines(conf, "fake") {
        let value = words.get(1).copied().unwrap_or_default();
        builder = match words[0] {
            "origin" => builder.origin(value),
            "cookie_domain" => builder.cookie_domain(value),
            "cookie_prefix" => builder.cookie_prefix(value),
            "any_host" => builder.database(false),
            "tls" => builder.tls(ca.leaf(&[value])),
            "tls_expired" => builder.tls(ca.expired(&[value])),
            "tls_self_signed" => {
                let identity = ServerIdentity::self_signed(&[value]);
                trusted = identity.cert_pem.clone();
                builder.tls(identity)
            }
            _ => builder,
        };
    }
    (builder, trusted)
}

/// Makes the fake answer as the file says.
fn spoil(authgear: &FakeAuthgear, conf: &str) {
    let page = |status| Fault::StatusBody(status, b"<html>s3cret</html>".to_vec());
    for words in lines(conf, "fake") {
        match words.as_slice() {
            ["website"] => authgear.inject(page(200)),
            ["blank"] => ["/resolve", "/_resolver/resolve"]
                .iter()
                .for_each(|path| authgear.inject_at(path, Fault::SilentBlank)),
            ["down"] => authgear.stop(),
            ["status", path, status] => {
                authgear.inject_at(path, page(status.parse().expect("a status")));
            }
            ["clock", seconds] => {
                let seconds: i64 = seconds.parse().expect("seconds");
                let by = Duration::from_secs(seconds.unsigned_abs());
                let now = SystemTime::now();
                let date = if seconds < 0 { now - by } else { now + by };
                let date = httpdate::fmt_http_date(date);
                authgear.inject_next(1, Fault::Headers(vec![("Date".into(), date)]));
            }
            ["origin" | "cookie_domain" | "cookie_prefix" | "any_host" | "tls" | "tls_expired"
            | "tls_self_signed", ..] => {}
            other => panic!("unknown line: # fake: {}", other.join(" ")),
        }
    }
}

/// The module under the name that nginx configurations use.
fn linked_module(folder: &Path) -> String {
    fs::create_dir_all(folder).expect("a folder");
    let link = folder.join("ngx_http_authgear_module.so");
    std::os::unix::fs::symlink(fs::canonicalize(module()).expect("the module"), &link)
        .expect("a link");
    link.display().to_string()
}

/// The version that the module is for, as its file has it.
fn version() -> [u8; 8] {
    let nginx = std::env::var_os("AUTHGEAR_NGINX").unwrap_or_else(|| "nginx".into());
    let said = Command::new(nginx).arg("-v").output().expect("nginx").stderr;
    let said = String::from_utf8_lossy(&said).into_owned();
    let (_, version) = said.trim().split_once('/').expect("a version");
    let mut parts = version.split(['.', ' ']).map(|part| part.parse::<u64>().unwrap_or(0));
    let mut part = || parts.next().unwrap_or(0);
    (part() * 1_000_000 + part() * 1000 + part()).to_le_bytes()
}

/// A copy of the module, with other bytes in all places of these.
fn spoilt_module(folder: &Path, from: &[u8], to: &[u8]) -> String {
    let mut bytes = fs::read(module()).expect("the module");
    let mut at = 0;
    let mut spoilt = 0;
    while let Some(found) = bytes[at..].windows(from.len()).position(|window| window == from) {
        at += found;
        bytes[at..at + to.len()].copy_from_slice(to);
        spoilt += 1;
    }
    assert!(spoilt > 0, "the module has no {from:?}");
    fs::create_dir_all(folder).expect("a folder");
    let file = folder.join("ngx_http_authgear_module.so");
    fs::write(&file, bytes).expect("a file");
    file.display().to_string()
}

/// Checks the configuration of each file in these folders.
fn check_all(folders: &[&str], fewest: usize) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/check");
    let files = folders.iter().flat_map(|folder| fs::read_dir(root.join(folder)).into_iter());
    let files = files.flatten().map(|file| file.expect("a file").path());
    let mut files: Vec<_> =
        files.filter(|file| file.extension().is_some_and(|end| end == "conf")).collect();
    files.sort();
    assert!(files.len() >= fewest, "{} files", files.len());
    let wrong: Vec<_> = files.iter().filter_map(|file| complaint(file)).collect();
    assert!(wrong.is_empty(), "{}\n{} of {} wrong", wrong.join("\n"), wrong.len(), files.len());
}

/// Faults of the answers about a file.
fn complaint(file: &Path) -> Option<String> {
    let scene = Scene::of(file);
    let output = run(&["--json", &scene.conf], None);
    let printed = text(&output);
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let findings = document["findings"].as_array().cloned().unwrap_or_default();
    let ids = findings.iter().filter_map(|finding| finding["id"].as_str());
    let found: BTreeSet<_> = ids.map(str::to_owned).collect();
    let right = match scene.expected.is_empty() {
        true => found.is_empty() && output.status.code() == Some(0),
        false => scene.expected.is_subset(&found) && output.status.code() == Some(1),
    };
    let coverage = text(&run(&["--coverage", &scene.conf], None));
    let leaks = printed.contains("s3cret") || coverage.contains("s3cret");
    let folder = scene.dir.path().display();
    (!right || leaks).then(|| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        format!("{name} in {folder}: expected {:?}, leaks: {leaks}\n{printed}", scene.expected)
    })
}

#[test]
fn each_planted_fault_is_named_and_good_configurations_have_no_finding() {
    check_all(&["own", "faults", "good"], 85);
}

/// The examples name files and modules that this machine need not have.
#[test]
fn the_examples_have_no_finding() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../nginx-conf");
    let ignored = "module_unreadable,unreadable_file";
    let mut checked = 0;
    for file in fs::read_dir(folder).expect("examples").flatten().map(|file| file.path()) {
        // One example shows the configuration without the module.
        if file.extension().is_none_or(|end| end != "conf") || file.ends_with("auth_request.conf") {
            continue;
        }
        let name = file.display().to_string();
        let output = run(&["--offline", "--ignore", ignored, &name], None);
        assert_eq!(output.status.code(), Some(0), "{name}: {}", text(&output));
        checked += 1;
    }
    assert!(checked > 10, "{checked}");
}

fn scene(name: &str) -> Scene {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/check/own");
    Scene::of(&root.join(format!("{name}.conf")))
}

#[test]
fn the_exit_status_is_2_for_what_cannot_be_checked() {
    for arguments in [
        &["--no-such-option"][..],
        &["/nonexistent/nginx.conf"],
        &["--format", "markdown", "-"],
        &["--ignore", "no_such_id", "-"],
        &["--nginx", "/nonexistent/nginx", "-"],
    ] {
        let output = run(arguments, None);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output));
        assert!(output.stdout.is_empty() && !output.stderr.is_empty(), "{arguments:?}");
    }
    let output = run(&["-"], Some("http { server {"));
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output).contains("unexpected end of file"), "{}", text(&output));
}

#[test]
fn the_output_of_nginx_t_is_read_from_standard_input() {
    let scene = scene("host_only_cookie");
    let conf = fs::read_to_string(&scene.conf).expect("the text");
    let (start, end) = conf.split_once("    server {").expect("a server");
    let dump = format!(
        "# configuration file /e/nginx.conf:\n{start}    include sites/*;\n}}\n\n\
         # configuration file /e/sites/shop:\n    server {{{}\n",
        end.trim_end().trim_end_matches('}')
    );
    let output = run(&["-"], Some(&dump));
    let printed = text(&output);
    assert_eq!(output.status.code(), Some(1), "{printed}");
    assert!(
        printed.contains("cookie_domain: ") && printed.contains("/e/sites/shop:1"),
        "{printed}"
    );
    assert!(printed.contains("\n  why: ") && printed.contains("\n  what to do: "), "{printed}");
}

#[test]
fn findings_can_be_ignored_and_servers_left_alone() {
    let scene = scene("host_only_cookie");
    let output = run(&["--ignore", "cookie_domain", &scene.conf], None);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let output = run(&["--offline", &scene.conf], None);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).contains("not checked: the servers of project \"shop\": --offline"));
}

#[test]
fn the_coverage_report_is_written_for_its_owner_only() {
    let scene = scene("good_webhook");
    let file = scene.dir.path().join("coverage.md");
    fs::write(&file, "old").expect("a file");
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("a mode");
    let name = file.display().to_string();
    let arguments = ["--coverage", "--format", "markdown", "--output", &name, &scene.conf];
    let output = run(&arguments, None);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).is_empty());
    assert_eq!(fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o600);
    let report = fs::read_to_string(&file).expect("the report");
    assert!(report.contains("| www.shop.localhost | / | session | shop |"), "{report}");
    assert!(report.contains("| Authgear, by its signature |"), "{report}");
    assert_eq!(
        fs::read_dir(scene.dir.path())
            .expect("files")
            .flatten()
            .filter(|file| file.file_name().to_string_lossy().starts_with("coverage"))
            .count(),
        1
    );
}

/// No request of the program has credentials but the invented session.
#[test]
fn nothing_but_an_invented_session_is_sent() {
    let scene = scene("good_auto");
    assert_eq!(run(&[&scene.conf], None).status.code(), Some(0));
    let requests = scene._authgear.requests();
    assert!(requests.len() >= 2, "{requests:?}");
    for request in requests {
        assert_eq!(request.header("authorization"), None);
        let cookie = request.header("cookie");
        assert!([None, Some("session=authgear-check.no-session")].contains(&cookie), "{cookie:?}");
        assert_eq!(request.header("x-forwarded-proto"), Some("http"));
    }
}

/// Every id has its row in the documentation, and the page names no other.
#[test]
fn every_finding_is_documented() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let page = fs::read_to_string(root.join("docs/checking.md")).expect("the page");
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `")?.split_once("` |"));
    let documented: BTreeSet<_> = rows.map(|(id, _)| id.to_owned()).collect();
    let source = fs::read_to_string(root.join("check/src/finding.rs")).expect("the source");
    let (_, list) = source.split_once("\nproblems! {").expect("the list");
    let (list, _) = list.split_once("\n}").expect("its end");
    let ids: BTreeSet<_> = list
        .lines()
        .filter_map(|line| line.split_once(" \"")?.1.strip_suffix("\":"))
        .map(str::to_owned)
        .collect();
    assert!(ids.len() > 20, "{ids:?}");
    assert_eq!(documented, ids);
}
