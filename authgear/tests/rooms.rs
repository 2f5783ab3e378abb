//! Keeps the imports between rooms in one direction.

use std::path::{Path, PathBuf};

/// Rooms from top to bottom. Each imports only from rooms below it.
const ROOMS: [&str; 10] = [
    "metrics",
    "shared",
    "resolver",
    "credentials",
    "policy",
    "token",
    "verdict",
    "identity",
    "operations",
    "http",
];

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn rank(room: &str) -> usize {
    let rank = ROOMS.iter().position(|known| *known == room);
    rank.unwrap_or_else(|| panic!("the room {room} is missing in ROOMS"))
}

#[test]
fn rooms_import_only_from_rooms_below_them() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    rust_files(&root, &mut files);
    for file in files.iter().filter(|file| !file.ends_with("lib.rs")) {
        let name = file.strip_prefix(&root).unwrap().to_str().unwrap();
        let room = name.split(['/', '.']).next().unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        // Unit tests may look at any room.
        if name.contains("tests") {
            continue;
        }
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let mut previous = "";
        for line in code.lines().map(str::trim) {
            let alias = previous == "// Until src is renamed.";
            previous = line;
            if line.starts_with("//") || alias {
                continue;
            }
            for path in line.split("crate::").skip(1) {
                let imported = path.split([':', ';', ' ']).next().unwrap();
                assert!(
                    imported == room || rank(imported) > rank(room),
                    "{name} imports from crate::{imported}, which is not below {room}"
                );
            }
        }
    }
}
