//! Structure of the source: which room (top-level module) may import which, no circle of files,
//! and unsafe code in the crate `nginx` only. `docs/architecture.md` describes the rooms.
//!
//! The compiler holds the borders between crates. The tables here hold the borders within one:
//! whoever adds a room gives it a place in the table, below every room that imports it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

#[path = "structure/imports.rs"]
mod imports;
#[path = "structure/source.rs"]
mod source;

use imports::{Import, Sources};

/// Allowed imports of a crate: each room with the rooms that it may import. A room may always
/// import itself. `lib` may import all rooms and nobody may import `lib`.
struct Table {
    rooms: BTreeMap<&'static str, BTreeSet<&'static str>>,
    /// Rooms in which a circle of files may stay.
    circles: &'static [&'static str],
}

impl Table {
    fn of_pairs(
        pairs: &[(&'static str, &[&'static str])],
        circles: &'static [&'static str],
    ) -> Self {
        let room = |&(room, below): &(_, &[_])| (room, below.iter().copied().collect());
        Self { rooms: pairs.iter().map(room).collect(), circles }
    }

    /// A table in which each room may import all rooms that stand before it.
    fn of_order(order: &[&'static str]) -> Self {
        let below = |at: usize| order[..at].iter().copied().collect();
        let rooms = order.iter().enumerate().map(|(at, &room)| (room, below(at))).collect();
        Self { rooms, circles: &[] }
    }

    /// Says why an import is not allowed, or `None` if it is.
    fn objection(&self, from: &str, to: &str) -> Option<String> {
        if from == to {
            return None;
        }
        if to == "lib" {
            return Some(format!("{from} -> lib: no file may import lib.rs"));
        }
        let known = |room: &str| (room != "lib").then(|| self.rooms.get(room));
        let unknown = [from, to].into_iter().find(|room| known(room) == Some(None));
        if let Some(room) = unknown {
            return Some(format!(
                "{from} -> {to}: room `{room}` has no place in the table of tests/structure.rs"
            ));
        }
        let allowed = from == "lib" || self.rooms[from].contains(to);
        (!allowed).then(|| format!("{from} -> {to} is not in the table of tests/structure.rs"))
    }
}

/// The module itself: lib -> request, operations -> lookup -> worker -> jwks, cache, client ->
/// conf -> shared.
fn module_table() -> Table {
    const PAIRS: &[(&str, &[&str])] = &[
        ("shared", &[]),
        ("conf", &["shared"]),
        ("client", &["conf", "shared"]),
        ("cache", &["conf", "shared"]),
        ("jwks", &["client", "conf", "shared"]),
        ("resolution", &["cache", "conf", "shared"]),
        ("single_flight", &["resolution"]),
        ("open_responses", &[]),
        ("recent", &[]),
        ("assertions", &["conf", "recent", "resolution"]),
        ("fleet", &["conf", "shared"]),
        (
            "worker",
            &[
                "assertions",
                "cache",
                "client",
                "conf",
                "fleet",
                "jwks",
                "open_responses",
                "recent",
                "resolution",
                "shared",
                "single_flight",
            ],
        ),
        ("credentials", &["conf"]),
        (
            "lookup",
            &[
                "cache",
                "client",
                "conf",
                "credentials",
                "fleet",
                "jwks",
                "resolution",
                "shared",
                "single_flight",
                "worker",
            ],
        ),
        (
            "operations",
            &["conf", "credentials", "fleet", "lookup", "resolution", "shared", "worker"],
        ),
        (
            "request",
            &[
                "assertions",
                "conf",
                "credentials",
                "lookup",
                "open_responses",
                "recent",
                "resolution",
                "shared",
                "worker",
            ],
        ),
    ];
    Table::of_pairs(PAIRS, &["conf"])
}

/// The wrappers of nginx, from the lowest file to the highest.
fn nginx_table() -> Table {
    Table::of_order(&[
        "error",
        "string",
        "log",
        "panic",
        "address",
        "process",
        "modules",
        "configuration",
        "conf",
        "headers",
        "task",
        "wake",
        "timer",
        "request",
        "dns",
        "ssl",
        "shm",
        "servers",
        "foreign",
        "upstream",
        "held",
        "hidden",
        "suspend",
        "open",
        "subrequest",
        "deferred",
        "content",
        "variable",
        "value",
        "stream",
        "module",
        "state",
        "entry",
    ])
}

/// The logic that needs no nginx, from the lowest room to the highest.
fn core_table() -> Table {
    Table::of_order(&[
        "exchange",
        "overload",
        "http",
        "operations",
        "login",
        "identity",
        "assertion",
        "verdict",
        "userinfo",
        "token",
        "policy",
        "credentials",
        "resolver",
        "shared",
        "single_flight",
        "fleet",
        "metrics",
    ])
}

/// The program that checks configurations, from the lowest room to the highest.
fn checker_table() -> Table {
    Table::of_order(&[
        "syntax", "source", "settings", "site", "finding", "project", "dns", "exchange", "files",
        "module", "lines", "places", "live", "coverage", "main",
    ])
}

/// Imports that the table does not allow, each as `file:line: room -> room`.
fn wrong_arrows(sources: &Sources, table: &Table) -> Vec<String> {
    let wrong = |import: &Import| {
        let why = table.objection(sources.room(&import.from), sources.room(&import.to))?;
        Some(format!("{}:{}: {why}", import.from, import.line))
    };
    let mut found: Vec<_> = sources.imports().iter().filter_map(wrong).collect();
    // One `use` may name several things of a room.
    found.dedup();
    found
}

/// Circles of files, each as `a -> b -> a`, but those within a room of `table.circles`.
fn circles(sources: &Sources, table: &Table) -> Vec<String> {
    let mut found = Vec::new();
    for circle in sources.circles() {
        let rooms: BTreeSet<_> = circle.iter().map(|file| sources.room(file)).collect();
        let may_stay = rooms.len() == 1 && rooms.iter().all(|room| table.circles.contains(room));
        if !may_stay {
            found.push(format!("circle of files: {}", circle.join(" -> ")));
        }
    }
    found
}

fn complaints(sources: &Sources, table: &Table) -> Vec<String> {
    [wrong_arrows(sources, table), circles(sources, table)].concat()
}

fn read_crate(folder: &str) -> Sources {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let sources = Sources::read(&root, folder);
    assert!(sources.files().count() > 5, "no source files in {folder}");
    sources
}

fn assert_follows(folder: &str, table: &Table) {
    let complaints = complaints(&read_crate(folder), table);
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

#[test]
fn arrows_of_the_module_run_down_only() {
    assert_follows("src", &module_table());
}

#[test]
fn arrows_of_the_nginx_wrappers_run_down_only() {
    assert_follows("nginx/src", &nginx_table());
}

#[test]
fn arrows_of_the_core_run_down_only() {
    assert_follows("authgear/src", &core_table());
}

#[test]
fn arrows_of_the_checker_run_down_only() {
    assert_follows("check/src", &checker_table());
}

/// Lines of a crate with unsafe code, and the want of the attribute that forbids it.
fn unsafe_code(sources: &Sources, root: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (file, text) in sources.files() {
        let code = source::code(text);
        for (line, text) in code.lines().enumerate() {
            if source::words(text).any(|word| word == "unsafe") {
                found.push(format!("{file}:{}: unsafe code outside nginx/", line + 1));
            }
        }
    }
    let text = sources.files().find(|(file, _)| *file == root).map_or("", |(_, text)| text);
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let forbids = lines.contains(&"#![forbid(unsafe_code)]");
    // `deny` is for a crate in which a macro of `nginx` expands to unsafe code; a comment says so.
    let denies = lines
        .windows(2)
        .any(|pair| pair[0].starts_with("// ") && pair[1] == "#![deny(unsafe_code)]");
    if !(forbids || denies) {
        found.push(format!(
            "{root}: has neither #![forbid(unsafe_code)] nor #![deny(unsafe_code)] below a comment"
        ));
    }
    found
}

#[test]
fn unsafe_code_is_in_the_nginx_crate_only() {
    for (folder, root) in [("src", "lib.rs"), ("authgear/src", "lib.rs"), ("check/src", "main.rs")]
    {
        let found = unsafe_code(&read_crate(folder), &format!("{folder}/{root}"));
        assert!(found.is_empty(), "\n{}\n", found.join("\n"));
    }
}

/// The checks themselves, on small made-up trees.
mod checks {
    use super::*;

    fn table() -> Table {
        Table::of_pairs(
            &[("request", &["lookup", "conf"]), ("lookup", &["conf"]), ("conf", &[])],
            &["conf"],
        )
    }

    fn tree(files: &[(&str, &str)]) -> Sources {
        Sources::of("src", files)
    }

    const LIB: (&str, &str) = ("src/lib.rs", "mod conf;\nmod lookup;\nmod request;\n");

    #[test]
    fn arrows_that_run_down_are_accepted() {
        let sources = tree(&[
            ("src/lib.rs", "mod conf;\nmod lookup;\nmod request;\nuse request::State;\n"),
            ("src/request.rs", "use crate::{conf::Location, lookup};\n"),
            ("src/lookup.rs", "fn f() -> crate::conf::Location { crate::conf::make() }\n"),
            ("src/conf.rs", "use std::rc::Rc;\n"),
        ]);
        assert_eq!(sources.imports().len(), 5);
        assert_eq!(complaints(&sources, &table()), Vec::<String>::new());
    }

    #[test]
    fn an_arrow_turned_round_is_found_with_file_and_line() {
        let sources = tree(&[
            LIB,
            ("src/lookup.rs", "//! Look-ups.\n\nuse crate::conf::Location;\n"),
            ("src/conf.rs", "use std::rc::Rc;\n\nuse crate::{\n    lookup::Pending,\n};\n"),
        ]);
        let found = complaints(&sources, &table());
        assert_eq!(
            found,
            [
                "src/conf.rs:4: conf -> lookup is not in the table of tests/structure.rs",
                "circle of files: src/conf.rs -> src/lookup.rs -> src/conf.rs",
            ]
        );
    }

    #[test]
    fn a_path_in_an_expression_counts_as_an_import() {
        let sources = tree(&[
            LIB,
            ("src/conf.rs", "fn f() {\n    crate::request::state();\n}\n"),
            ("src/request.rs", ""),
        ]);
        let found = complaints(&sources, &table());
        assert!(found[0].starts_with("src/conf.rs:2: conf -> request"), "{found:?}");
    }

    #[test]
    fn imports_of_the_crate_root_are_found() {
        let sources = tree(&[LIB, ("src/lookup.rs", "use crate::Authgear;\n")]);
        let found = complaints(&sources, &table());
        assert_eq!(found, ["src/lookup.rs:1: lookup -> lib: no file may import lib.rs"]);
    }

    #[test]
    fn a_name_that_the_root_re_exports_belongs_to_its_room() {
        let lib = "mod conf;\nmod lookup;\npub use lookup::{Pending, Started as Begun};\n";
        let sources = tree(&[
            ("src/lib.rs", lib),
            ("src/conf.rs", "use crate::Begun;\n"),
            ("src/lookup.rs", ""),
        ]);
        let found = complaints(&sources, &table());
        assert!(found[0].starts_with("src/conf.rs:1: conf -> lookup"), "{found:?}");
    }

    #[test]
    fn a_room_without_a_place_in_the_table_is_found() {
        let sources = tree(&[
            ("src/lib.rs", "mod conf;\nmod helpers;\n"),
            ("src/helpers.rs", ""),
            ("src/conf.rs", "use crate::helpers::trim;\n"),
        ]);
        let found = complaints(&sources, &table());
        assert!(found[0].contains("room `helpers` has no place"), "{found:?}");
    }

    #[test]
    fn super_is_the_parent_and_not_the_room() {
        let sources = tree(&[
            ("src/lib.rs", "mod conf;\nmod lookup;\n"),
            ("src/conf/mod.rs", "mod cache;\n"),
            ("src/conf/cache.rs", "use super::super::lookup;\nmod inner {\n    use super::X;\n}\n"),
            ("src/lookup.rs", ""),
        ]);
        let found = complaints(&sources, &table());
        assert_eq!(
            found,
            ["src/conf/cache.rs:1: conf -> lookup is not in the table of tests/structure.rs"]
        );
    }

    #[test]
    fn a_circle_may_stay_only_where_the_table_says_so() {
        let files = |room: &str| {
            let lib = format!("mod {room};\n");
            let parent = "mod a;\nmod b;\nuse a::A;\n".to_owned();
            [
                ("src/lib.rs".to_owned(), lib),
                (format!("src/{room}/mod.rs"), parent),
                (format!("src/{room}/a.rs"), "use super::b::B;\n".to_owned()),
                (format!("src/{room}/b.rs"), "use super::Parent;\n".to_owned()),
            ]
        };
        let found = |room: &str| {
            let files = files(room);
            let files: Vec<_> = files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
            complaints(&tree(&files), &table())
        };
        assert_eq!(found("conf"), Vec::<String>::new());
        let expected = "circle of files: \
            src/lookup/a.rs -> src/lookup/b.rs -> src/lookup/mod.rs -> src/lookup/a.rs";
        assert_eq!(found("lookup"), [expected]);
    }

    #[test]
    fn a_re_export_of_its_own_child_makes_no_circle() {
        let sources = tree(&[
            ("src/lib.rs", "mod lookup;\n"),
            ("src/lookup.rs", "mod start;\npub use start::start;\n"),
            ("src/lookup/start.rs", "use super::Pending;\n"),
        ]);
        assert_eq!(complaints(&sources, &table()), Vec::<String>::new());
    }

    #[test]
    fn comments_strings_and_tests_do_not_count() {
        let text = r##"
            // use crate::request::State;
            /* use crate::request::State; /* nested */ */
            /// See [`State`](crate::request::State).
            const A: &str = "crate::request::State";
            const B: &str = r#"use crate::request::State; ""#;
            const C: char = '"';
            #[cfg(test)]
            mod tests {
                use crate::request::State;
            }
        "##;
        let sources = tree(&[LIB, ("src/conf.rs", text), ("src/request.rs", "")]);
        assert_eq!(complaints(&sources, &table()), Vec::<String>::new());
    }

    #[test]
    fn unsafe_code_and_a_missing_attribute_are_found() {
        let lib = "#![forbid(unsafe_code)]\n// No unsafe here.\nconst A: &str = \"unsafe\";\n";
        let found = |lib: &str| unsafe_code(&tree(&[("src/lib.rs", lib)]), "src/lib.rs");
        assert_eq!(found(lib), Vec::<String>::new());
        assert_eq!(found("// The macro needs it.\n#![deny(unsafe_code)]\n"), Vec::<String>::new());
        assert_eq!(found("\n#![deny(unsafe_code)]\n").len(), 1);
        let lib = format!("{lib}fn f() {{\n    unsafe {{ g() }}\n}}\n");
        assert_eq!(found(&lib), ["src/lib.rs:5: unsafe code outside nginx/"]);
    }

    #[test]
    fn a_table_of_order_lets_each_room_import_those_before_it() {
        let table = Table::of_order(&["string", "log", "request"]);
        assert_eq!(table.objection("request", "string"), None);
        assert_eq!(table.objection("lib", "request"), None);
        assert!(table.objection("string", "log").is_some());
    }
}
