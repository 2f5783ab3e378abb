//! Images, compose files, manifests, workflows and the drop-in for systemd name what exists and are
//! well-formed. `make test-docker` runs the images and two of the compose files.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Files of a folder of the repository whose names end so.
fn files(folder: &str, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join(folder)).expect("a folder");
    let paths = entries.map(|entry| entry.expect("a file").path());
    let mut found: Vec<_> = paths.filter(|path| path.to_string_lossy().ends_with(end)).collect();
    found.sort();
    assert!(!found.is_empty(), "no *{end} in {folder}");
    found
}

/// Runs a program and expects success. Returns `None` where the program is missing, which it says.
fn run(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).current_dir(root()).stdin(Stdio::null()).output();
    let Ok(output) = output else {
        eprintln!("skipped: no {program}");
        return None;
    };
    let text = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    assert!(output.status.success(), "{program} {arguments:?}:\n{}", text.concat());
    Some(text.concat())
}

/// Instructions of a Dockerfile, each in one line.
fn instructions(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let joined = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    joined.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Faults of a Dockerfile: files that are not in the repository, stages that were not begun,
/// and a health check or signal that an image for users lacks.
fn mistakes(text: &str, context: &Path) -> Vec<String> {
    const KNOWN: &[&str] = &[
        "ARG",
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "RUN",
        "STOPSIGNAL",
        "USER",
        "WORKDIR",
    ];
    let mut stages = BTreeSet::new();
    let mut found = Vec::new();
    for line in instructions(text) {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["FROM", _, "AS", name] => {
                stages.insert((*name).to_owned());
            }
            ["FROM", _] => {}
            ["COPY", from, _, _] if from.starts_with("--from=") => {
                let stage = from.trim_start_matches("--from=");
                if !stages.contains(stage) {
                    found.push(format!("no stage {stage}: {line}"));
                }
            }
            ["COPY", source, _] => {
                if !context.join(source).exists() {
                    found.push(format!("no file {source}: {line}"));
                }
            }
            ["RUN", script, ..] if script.starts_with("packaging/") => {
                if !context.join(script).exists() {
                    found.push(format!("no file {script}: {line}"));
                }
            }
            [instruction, _, ..] if KNOWN.contains(instruction) && *instruction != "COPY" => {}
            _ => found.push(format!("not understood: {line}")),
        }
    }
    found
}

#[test]
fn dockerfiles_name_files_and_stages_that_exist() {
    for file in files("packaging/docker", ".Dockerfile") {
        let text = read(&file);
        let mut found = mistakes(&text, &root());
        for part in ["HEALTHCHECK", "STOPSIGNAL SIGQUIT", " AS unprivileged"] {
            if !text.contains(part) {
                found.push(format!("no {part}"));
            }
        }
        assert!(found.is_empty(), "{}: {found:#?}", file.display());
    }
    for file in files("packaging/compose", ".Dockerfile") {
        let found = mistakes(&read(&file), &root());
        assert!(found.is_empty(), "{}: {found:#?}", file.display());
    }
    let text =
        "FROM a AS b\nCOPY --from=c /x /y\nCOPY missing /y\nRUN packaging/no.sh\nCOPPY a b\n";
    assert_eq!(mistakes(text, &root()).len(), 4);
}

/// The status server that the images have from the start is the one that their script writes, so it
/// need not write at the default address, where it may have no right to.
#[test]
fn the_status_server_of_the_images_is_that_of_their_script() {
    let rootfs = root().join("packaging/docker/rootfs");
    let script = read(&rootfs.join("docker-entrypoint.d/40-authgear-status.sh"));
    let content = script.split("content=\"").nth(1).and_then(|rest| rest.split('"').next());
    let written =
        content.expect("the content").replace("$AUTHGEAR_STATUS_LISTEN", "127.0.0.1:9145");
    assert_eq!(format!("{written}\n"), read(&rootfs.join("etc/nginx/authgear/status.conf")));
    for file in files("packaging/docker", ".Dockerfile") {
        assert!(read(&file).contains("ENV AUTHGEAR_STATUS_LISTEN=127.0.0.1:9145\n"));
    }
}

#[test]
fn scripts_have_no_syntax_errors() {
    let folders = ["packaging", "packaging/docker", "packaging/docker/debian/docker-entrypoint.d"];
    for folder in folders {
        for file in files(folder, "sh") {
            let first = read(&file);
            let shell = if first.starts_with("#!/usr/bin/env bash") { "bash" } else { "sh" };
            run(shell, &["-n", &file.to_string_lossy()]).expect("a shell");
        }
    }
}

/// Words that follow `make` in the steps of a workflow. A value of a matrix stands for itself.
fn made(workflow: &str) -> BTreeSet<String> {
    let steps = workflow.lines().filter_map(|line| {
        let line = line.trim().trim_start_matches("- ");
        line.strip_prefix("run: make ")
    });
    let matrix = workflow.split("        target:\n").nth(1).unwrap_or_default();
    let targets = matrix.lines().map_while(|line| line.strip_prefix("          - "));
    let words = steps.chain(targets).flat_map(str::split_whitespace);
    let is_target =
        |word: &&str| word.starts_with(|c: char| c.is_ascii_lowercase()) && !word.contains('=');
    words.filter(is_target).filter(|word| !word.contains('.')).map(str::to_owned).collect()
}

#[test]
fn steps_of_workflows_are_targets_of_make() {
    let makefile = read(&root().join("Makefile"));
    let is_target = |name: &str| makefile.lines().any(|line| line.starts_with(&format!("{name}:")));
    for file in files(".github/workflows", ".yml") {
        let text = read(&file);
        let made = made(&text);
        assert!(made.len() > 3, "{}: {made:?}", file.display());
        let unknown: Vec<_> = made.iter().filter(|name| !is_target(name)).collect();
        assert!(unknown.is_empty(), "{}: no target {unknown:?}", file.display());
        // Nothing but make is run, so that each step can be tried anywhere.
        let runs =
            text.lines().filter(|line| line.trim().trim_start_matches("- ").starts_with("run:"));
        for run in runs {
            assert!(run.contains("run: make "), "{}: {run}", file.display());
        }
    }
    assert!(made("- run: make nothing\n").contains("nothing") && !is_target("nothing"));
}

#[test]
fn ci_on_github_makes_what_ci_run_makes() {
    let of_github = made(&read(&root().join(".github/workflows/ci.yml")));
    let script = read(&root().join(".ci/run"));
    let lines = script.lines().filter_map(|line| line.strip_prefix("make "));
    for line in lines {
        for word in line.split_whitespace().take_while(|word| !word.contains(['=', '>'])) {
            assert!(of_github.contains(word), "ci.yml does not make {word}");
        }
    }
}

#[test]
fn workflows_are_well_formed() {
    // `go install github.com/rhysd/actionlint/cmd/actionlint@latest`
    run("actionlint", &[]);
}

/// Variables of a template are in the environment that the compose file gives.
#[test]
fn compose_files_set_the_variables_of_their_templates() {
    for (file, templates) in
        [("demo.yaml", "templates"), ("authgear.yaml", "templates"), ("fleet.yaml", "fleet")]
    {
        let folder = root().join("packaging/compose");
        let template = read(&folder.join(templates).join("default.conf.template"));
        let names = template.split("${").skip(1).filter_map(|rest| rest.split('}').next());
        let names: BTreeSet<_> = names.collect();
        assert!(names.len() >= 3, "{names:?}");
        let text = read(&folder.join(file));
        assert!(text.contains(&format!("- ./{templates}:/etc/nginx/templates:ro\n")), "{file}");
        for name in &names {
            assert!(text.contains(&format!("    {name}: ")), "{file} does not set {name}");
        }
        for line in text.lines().map(str::trim) {
            let mounted = line.strip_prefix("- ./").and_then(|mount| mount.split(':').next());
            if let Some(path) = mounted {
                assert!(folder.join(path).exists(), "{file}: {path}");
            }
            let dockerfile = line.strip_prefix("dockerfile: ");
            if let Some(path) = dockerfile.filter(|path| path.contains('/')) {
                assert!(root().join(path).exists(), "{file}: {path}");
            }
        }
    }
}

/// Manifests of Kubernetes' own kinds follow its schemas, by the oldest version that they are for and
/// by the newest.
#[test]
fn manifests_follow_the_schemas_of_kubernetes() {
    let validator = root().join("build/kubernetes/bin/kubernetes-validate");
    if root().join("build/kubernetes-missing").exists() {
        eprintln!("skipped: no kubernetes-validate from PyPI");
        return;
    }
    let validator = validator.to_string_lossy();
    let manifests = files("packaging/kubernetes", ".yaml");
    let manifests: Vec<_> = manifests.iter().map(|path| path.to_string_lossy()).collect();
    for version in [&["-k", "1.29"][..], &[]] {
        let mut arguments = vec!["--strict", "--quiet"];
        arguments.extend(version);
        arguments.extend(manifests.iter().map(AsRef::as_ref));
        let said = run(&validator, &arguments).expect("\"make clients\" installs it");
        // The kinds of gateways have schemas of their own.
        let unknown = said.lines().filter(|line| !line.contains("gateway-fabric.yaml"));
        assert_eq!(unknown.collect::<Vec<_>>(), Vec::<&str>::new());
    }
    let folder = tempfile::tempdir().expect("a folder");
    let wrong = folder.path().join("wrong.yaml");
    let text = read(&root().join("packaging/kubernetes/gateway.yaml"));
    fs::write(&wrong, text.replace("readinessProbe:", "readynessProbe:")).expect("written");
    let output = Command::new(&*validator).arg("--strict").arg(&wrong).output().expect("it runs");
    assert!(!output.status.success(), "a misspelt probe was accepted");
}

/// nginx in the manifests is the unprivileged image, whose folders in memory cover what it writes.
#[test]
fn manifests_mount_what_nginx_writes() {
    for file in ["gateway.yaml", "sidecar.yaml"] {
        let text = read(&root().join("packaging/kubernetes").join(file));
        for part in [
            "readOnlyRootFilesystem: true",
            "mountPath: /etc/nginx/conf.d}",
            "mountPath: /etc/nginx/authgear}",
            "mountPath: /tmp}",
            "-unprivileged",
            "listen 8080;",
            "AUTHGEAR_STATUS_LISTEN, value: \"0.0.0.0:9145\"",
        ] {
            assert!(text.contains(part), "{file}: no {part}");
        }
    }
}

/// systemd reads each line of the drop-in: it warns of names and values that it does not know.
#[test]
fn systemd_reads_the_drop_in() {
    let unit = Path::new("/lib/systemd/system/nginx.service");
    if !unit.exists() {
        eprintln!("skipped: no unit of nginx");
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let drop_ins = folder.path().join("nginx.service.d");
    fs::create_dir(&drop_ins).expect("a folder");
    let copy = folder.path().join("nginx.service");
    fs::copy(unit, &copy).expect("copied");
    let text = read(&root().join("packaging/systemd/hardening.conf"));
    let verify = |text: &str| {
        fs::write(drop_ins.join("hardening.conf"), text).expect("written");
        let output = Command::new("systemd-analyze")
            .arg("verify")
            .arg(&copy)
            .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()))
            .output();
        output.ok().map(|output| String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let Some(said) = verify(&text) else {
        eprintln!("skipped: no systemd-analyze");
        return;
    };
    assert!(!said.contains("hardening.conf"), "{said}");
    let said = verify(&text.replace("PrivateTmp", "PrivateTemp")).expect("it runs");
    assert!(said.contains("hardening.conf"), "a misspelt line was accepted: {said}");
}
