//! The documentation describes everything that exists, and only that.

use std::fs;
use std::path::{Path, PathBuf};

use authgear::verdict::Reason;

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
    let source = read(&root().join("src/conf/project.rs"));
    let (_, lines) = source.split_once("match key {").expect("settings");
    let (lines, _) = lines.split_once("unknown directive").expect("their end");
    let settings: Vec<_> = (lines.lines())
        .filter_map(|line| line.trim().strip_prefix('"')?.split_once("\" =>"))
        .map(|(name, _)| name)
        .collect();
    assert!(settings.len() >= 20, "{settings:?}");
    for name in settings {
        assert!(text.contains(&format!("\n| `{name} ")), "{name}");
    }
}
