//! The ways to build the module for an nginx, without their compilers: cargo is a script here that
//! puts the module under test in place. `make test-build` runs the builds themselves.

use std::fs;
use std::os::unix::fs::{symlink, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use support::module_path;
use tempfile::TempDir;

/// nginx-dev of Debian.
const SOURCES: &str = "/usr/share/nginx/src";
const CONFIGURED: &[&str] = &["--with-compat", "--with-threads", "--with-cc-opt=-fPIC"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().expect("the repository")
}

fn nginx() -> String {
    std::env::var("AUTHGEAR_NGINX").unwrap_or_else(|_| "/usr/sbin/nginx".into())
}

fn text(output: &Output) -> String {
    let bytes = [output.stdout.as_slice(), &output.stderr].concat();
    String::from_utf8_lossy(&bytes).trim().to_owned()
}

/// A folder with a script in place of cargo, and what is built.
struct Workshop {
    dir: TempDir,
}

impl Workshop {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a folder");
        let workshop = Self { dir };
        workshop.script(
            "cargo",
            &format!(
                r#"case $1 in
                --version) echo "cargo 1.95.0" ;;
                build)
                    while [ "$1" != --target-dir ]; do shift; done
                    mkdir -p "$2/release"
                    echo "$NGINX_SOURCE_DIR $NGINX_BUILD_DIR" > "$2/built-for"
                    cp '{}' "$2/release/libngx_http_authgear_module.so" ;;
                *) exit 1 ;;
                esac"#,
                module_path().display()
            ),
        );
        workshop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a script");
        path
    }

    /// A script that answers as the binary of an nginx does, with a signature of modules.
    fn binary(&self, version: &str, signature: &str, arguments: &str) -> PathBuf {
        self.script(
            "nginx",
            &format!(
                ": '\n{signature}\n'\nexec >&2\necho 'nginx version: {version}'\n\
                 [ $1 != -V ] || echo \"configure arguments: {arguments}\""
            ),
        )
    }

    fn run(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Output {
        let mut command = Command::new(program.as_ref());
        command.current_dir(self.dir.path()).env("CARGO", self.path("cargo")).args(arguments);
        for variable in ["NGINX_SOURCE_DIR", "NGINX_BUILD_DIR", "MAKEFLAGS", "MAKELEVEL"] {
            command.env_remove(variable);
        }
        command.output().expect("a program to run")
    }

    fn packaging(&self, script: &str, arguments: &[&str]) -> Output {
        self.run(root().join("packaging").join(script), arguments)
    }

    /// The complaint of a script, which must be one line.
    fn complaint(&self, script: &str, arguments: &[&str]) -> String {
        let output = self.packaging(script, arguments);
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        assert!(!output.status.success(), "{script} {arguments:?}");
        assert_eq!(stderr.lines().count(), 1, "{script} {arguments:?}: {stderr}");
        stderr
    }

    /// Copies Debian's sources to `sources` here, and configures them.
    fn configured(&self, options: &[&str]) -> PathBuf {
        let sources = self.path("sources");
        if !sources.exists() {
            let copied = self.run("/bin/cp", &["-r", SOURCES, "sources"]);
            assert!(copied.status.success(), "{}", text(&copied));
        }
        let output = self.configure(&[CONFIGURED, options].concat());
        assert!(output.status.success(), "{}", text(&output));
        sources
    }

    fn configure(&self, options: &[&str]) -> Output {
        let mut command = Command::new("./configure");
        command.current_dir(self.path("sources")).env("CARGO", self.path("cargo"));
        command.args(options).output().expect("configure")
    }

    /// Asserts that the nginx under test loads a module.
    fn prove(&self, module: &Path) {
        let output = self.packaging("prove.sh", &[&nginx(), &module.to_string_lossy()]);
        assert!(output.status.success(), "{}", text(&output));
    }
}

#[test]
fn a_mistake_in_named_sources_is_one_line_before_a_compiler_starts() {
    let workshop = Workshop::new();
    fs::create_dir(workshop.path("empty")).expect("a folder");
    let check = |source: &str, objs: &str| workshop.complaint("check-sources.sh", &[source, objs]);
    assert!(check("nowhere", "").ends_with(
        "/nowhere: no such folder. Unpack the sources of your nginx there; nginx -v prints the version."
    ));
    assert!(check("empty", "").ends_with("/empty has no sources of nginx: no src/core/nginx.h."));
    let line = check(SOURCES, "");
    assert!(
        line.contains("is not configured: run (cd /usr/share/nginx/src && ./configure"),
        "{line}"
    );
    let line = check(SOURCES, "empty");
    assert!(
        line.contains("/empty has no ngx_auto_config.h") && line.contains("--builddir="),
        "{line}"
    );

    let sources = workshop.configured(&[]);
    let line = check("sources", "");
    assert!(line.contains("without --with-http_ssl_module"), "{line}");

    let angie = sources.join("src/core/angie.h");
    fs::write(&angie, "").expect("angie.h");
    assert!(check("sources", "").contains("/sources has sources of Angie, whose ngx_module_t"));
    fs::remove_file(&angie).expect("angie.h");

    let header = sources.join("src/core/nginx.h");
    let old = fs::read_to_string(&header).expect("nginx.h");
    let older =
        old.replace("#define NGINX_VERSION      \"1.22.1\"", "#define NGINX_VERSION \"1.20.2\"");
    fs::write(&header, older).expect("nginx.h");
    let line = check("sources", "");
    assert!(line.ends_with("is nginx 1.20.2: the module needs 1.22 or later."), "{line}");
}

#[test]
fn a_missing_tool_or_header_is_one_line_with_its_packages() {
    let workshop = Workshop::new();
    let sources = workshop.configured(&["--with-http_ssl_module"]);
    let check = || workshop.complaint("check-sources.sh", &["sources", ""]);

    workshop.script("cargo", "echo cargo 1.70.0");
    assert!(check().starts_with("cargo is 1.70, and the module needs 1."));
    fs::remove_file(workshop.path("cargo")).expect("the script");
    let line = check();
    assert!(
        line.contains("/cargo: apt-get install cargo rustc, dnf install cargo, or apk add cargo"),
        "{line}"
    );

    workshop.script("cargo", "echo cargo 1.95.0");
    let checked = workshop.packaging("check-sources.sh", &["sources", ""]);
    assert!(checked.status.success() && text(&checked).is_empty(), "{}", text(&checked));
    let header = sources.join("src/core/ngx_config.h");
    let text = fs::read_to_string(&header).expect("ngx_config.h");
    fs::write(&header, format!("{text}\n#include <openssl/none.h>\n")).expect("ngx_config.h");
    assert_eq!(
        check(),
        "no header openssl/none.h: apt-get install libssl-dev, dnf install openssl-devel, or apk add openssl-dev"
    );
}

/// As on RHEL and Alpine: the tools are there, and neither apt nor dpkg.
#[test]
fn named_sources_are_built_without_a_package_manager() {
    let workshop = Workshop::new();
    workshop.configured(&["--with-http_ssl_module", "--with-http_v2_module"]);
    let tools = workshop.path("bin");
    fs::create_dir(&tools).expect("a folder");
    for tool in
        "awk basename cat cc chmod cp dirname echo grep head id make mkdir mktemp mv objcopy rm sed \
                 sh strip tr ls ld as"
            .split_whitespace()
    {
        let found =
            ["/usr/bin", "/bin"].iter().map(|dir| Path::new(dir).join(tool)).find(|f| f.exists());
        symlink(found.unwrap_or_else(|| panic!("no {tool}")), tools.join(tool)).expect("a link");
    }
    // A relative path is one from where make was started.
    let sources = pathdiff(&workshop.path("sources"), &root());
    let target = workshop.path("target");
    let output = Command::new("make")
        .current_dir(root())
        .env("PATH", &tools)
        .env("CARGO", workshop.path("cargo"))
        .env_remove("MAKEFLAGS")
        .args(["-s", "build", &format!("NGINX_SOURCE_DIR={sources}")])
        .arg(format!("TARGET={}", target.display()))
        .output()
        .expect("make");
    assert!(output.status.success(), "{}", text(&output));
    let built_for = fs::read_to_string(target.join("built-for")).expect("what cargo was told");
    let absolute = workshop.path("sources").canonicalize().expect("sources");
    assert_eq!(built_for.trim(), format!("{0} {0}/objs", absolute.display()));
    workshop.prove(&target.join("release/libngx_http_authgear_module.so"));
}

/// `to` as a path relative to `from`; both are absolute.
fn pathdiff(to: &Path, from: &Path) -> String {
    let up = "../".repeat(from.components().count() - 1);
    format!(
        "{up}{}",
        to.canonicalize().expect("a path").strip_prefix("/").expect("absolute").display()
    )
}

#[test]
fn the_sources_of_a_binary_are_configured_as_it_was() {
    let workshop = Workshop::new();
    let signature_of = |script: &str| {
        let library = root().join("packaging/nginx-sources.sh");
        let output =
            workshop.run("/bin/sh", &["-c", &format!(". {}; {script}", library.display())]);
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    };
    let wanted = signature_of("signature_of_binary /usr/sbin/nginx");
    assert!(wanted.starts_with("8,4,8,") && wanted.len() >= 36, "{wanted}");
    let output = workshop.packaging("sources-for.sh", &["/usr/sbin/nginx", "for"]);
    assert!(output.status.success(), "{}", text(&output));
    let folder = workshop.path("for").canonicalize().expect("the folder");
    let sources = format!("signature_of_sources {SOURCES} {}/objs", folder.display());
    assert_eq!(signature_of(&sources), wanted);
    // Another make, which names the folders that it enters, may run the script.
    assert_eq!(signature_of(&format!("export MAKEFLAGS=w MAKELEVEL=1; {sources}")), wanted);
    // The second time, nothing is left to do.
    let output = workshop.packaging("sources-for.sh", &["/usr/sbin/nginx", "for"]);
    assert!(output.status.success() && text(&output).is_empty(), "{}", text(&output));
}

#[test]
fn a_binary_without_fitting_sources_is_refused_in_one_line() {
    const ARGUMENTS: &str = "--with-http_ssl_module --with-threads --with-cc-opt='-O2 -fPIC'";
    const SIGNATURE: &str = "8,4,8,0000111111010110001101111110100110";
    let workshop = Workshop::new();
    let refused =
        |binary: &Path| workshop.complaint("sources-for.sh", &[&binary.to_string_lossy(), "for"]);
    assert!(refused(Path::new("/nowhere/nginx")).starts_with("no nginx binary /nowhere/nginx"));
    assert!(refused(Path::new("/bin/true")).contains("it is no nginx"));
    let line = refused(&workshop.binary("nginx/1.99.7", SIGNATURE, ARGUMENTS));
    assert!(
        line.starts_with("no sources of nginx/1.99.7,") && line.contains("NGINX_SOURCE_DIR=PATH"),
        "{line}"
    );
    // The sources of a fork have patches, which nobody has by the version alone.
    let line = refused(&workshop.binary("openresty/1.22.1.4", SIGNATURE, ARGUMENTS));
    assert!(line.starts_with("no sources of openresty/1.22.1.4,"), "{line}");
    // That of Angie has its name in the signature too.
    let line = refused(&workshop.binary("Angie/1.13.0", &format!("Angie,{SIGNATURE}"), ARGUMENTS));
    assert!(line.starts_with("no sources of Angie/1.13.0,"), "{line}");

    // The signature is compared before anything is built.
    let line = refused(&workshop.binary("nginx/1.22.1", SIGNATURE, ARGUMENTS));
    assert!(line.contains(&format!("demands modules with the signature {SIGNATURE}")), "{line}");
    assert!(line.contains("NGX_COMPAT (off in the binary)"), "{line}");
}

#[test]
fn nginxs_configure_adds_the_module() {
    let workshop = Workshop::new();
    let add = format!("--add-dynamic-module={}", root().display());
    let sources = workshop.configured(&["--with-http_ssl_module", "--with-http_v2_module", &add]);
    let make =
        workshop.run("/usr/bin/make", &["-C", "sources", "-s", "-f", "objs/Makefile", "modules"]);
    assert!(make.status.success(), "{}", text(&make));
    workshop.prove(&sources.join("objs/ngx_http_authgear_module.so"));

    let complaint = |options: &[&str]| {
        let output = workshop.configure(&[CONFIGURED, options].concat());
        assert!(!output.status.success(), "{options:?}");
        text(&output).lines().last().map(str::to_owned).unwrap_or_default()
    };
    assert!(complaint(&[&add]).ends_with("ngx_http_authgear_module needs --with-http_ssl_module"));
    let linked = format!("--add-module={}", root().display());
    assert!(complaint(&["--with-http_ssl_module", &linked]).contains("use --add-dynamic-module="));
}

#[test]
fn the_built_module_has_its_debug_information_beside_it() {
    let workshop = Workshop::new();
    let sections = |file: &str| text(&workshop.run("/usr/bin/readelf", &["-SW", file]));
    fs::copy(module_path(), workshop.path("module.so")).expect("a copy");
    if sections("module.so").contains(".debug_line") {
        let output = workshop.packaging("split-debug.sh", &["module.so"]);
        assert!(output.status.success(), "{}", text(&output));
    } else {
        // `make build` has split it.
        let debug = format!("{}.debug", module_path().display());
        fs::copy(debug, workshop.path("module.so.debug")).expect("a copy");
    }
    let built = sections("module.so");
    assert!(built.contains(".gnu_debuglink") && !built.contains(".debug_line"), "{built}");
    assert!(built.contains(".eh_frame"), "panics unwind: {built}");
    assert!(sections("module.so.debug").contains(".debug_line"));
    workshop.prove(&workshop.path("module.so"));
}
