//! Files of a crate, and which of them imports which.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use super::source;

/// A path in a file that leads to another file of the crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    pub from: String,
    pub line: usize,
    pub to: String,
    /// A parent that re-exports a name of its child, which is no use of it.
    re_export: bool,
}

/// A path as it is written, from the root of the crate.
struct Reference {
    path: Vec<String>,
    /// Name under which the file makes it known.
    alias: Option<String>,
    line: usize,
    is_pub_use: bool,
}

/// A module that is a file.
struct File {
    name: String,
    text: String,
    references: Vec<Reference>,
}

/// Source files of a crate by the path of their module.
pub struct Sources {
    folder: String,
    files: BTreeMap<Vec<String>, File>,
}

impl Sources {
    /// Reads all files of `folder`, which is relative to `root`, but those named `tests.rs` and
    /// those in folders named `tests`.
    pub fn read(root: &Path, folder: &str) -> Self {
        let mut files = Vec::new();
        collect(root, folder, &mut files);
        let files: Vec<_> = files.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        Self::of(folder, &files)
    }

    pub fn of(folder: &str, files: &[(&str, &str)]) -> Self {
        let mut modules = BTreeMap::new();
        for (name, text) in files {
            let module = module_path(folder, name);
            let file = File { name: (*name).into(), text: (*text).into(), references: Vec::new() };
            modules.insert(module, file);
        }
        let paths: BTreeSet<Vec<String>> = modules.keys().cloned().collect();
        for (module, file) in &mut modules {
            file.references = Scanner::new(module, &paths, &file.text).scan();
        }
        Self { folder: folder.to_owned(), files: modules }
    }

    /// Names and texts.
    pub fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.files.values().map(|file| (file.name.as_str(), file.text.as_str()))
    }

    /// Top-level module of a file.
    pub fn room<'a>(&self, file: &'a str) -> &'a str {
        let inside = file[self.folder.len()..].trim_start_matches('/');
        inside.split(['/', '.']).next().unwrap_or(inside)
    }

    pub fn imports(&self) -> Vec<Import> {
        let mut imports = Vec::new();
        for (module, file) in &self.files {
            for reference in &file.references {
                let to = self.target(&reference.path, 0);
                if to == *module {
                    continue;
                }
                let is_child = to.starts_with(module);
                imports.push(Import {
                    from: file.name.clone(),
                    line: reference.line,
                    to: self.files[&to].name.clone(),
                    re_export: is_child && reference.is_pub_use,
                });
            }
        }
        imports
    }

    /// Module whose file defines a path: the longest module that it begins with, or, if that one
    /// only re-exports the name, the module that it comes from.
    fn target(&self, path: &[String], depth: usize) -> Vec<String> {
        let length = (0..=path.len()).rev().find(|&n| self.files.contains_key(&path[..n]));
        let (module, rest) = path.split_at(length.unwrap_or(0));
        let (Some(name), Some(file)) = (rest.first(), self.files.get(module)) else {
            return module.to_vec();
        };
        let is_it = |reference: &&Reference| {
            reference.is_pub_use && reference.alias.as_deref() == Some(name)
        };
        match file.references.iter().find(is_it) {
            // Re-exports that lead round in a circle do not compile.
            Some(reference) if depth < 8 => self.target(&reference.path, depth + 1),
            _ => module.to_vec(),
        }
    }

    /// Circles of files, one for each set of files that reach each other: the shortest through
    /// its first file.
    pub fn circles(&self) -> Vec<Vec<String>> {
        let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for import in self.imports().into_iter().filter(|import| !import.re_export) {
            arrows.entry(import.from).or_default().insert(import.to);
        }
        let mut circles = Vec::new();
        let mut seen = BTreeSet::new();
        for start in arrows.keys() {
            if seen.contains(start) {
                continue;
            }
            if let Some(circle) = shortest_circle(&arrows, start) {
                seen.extend(
                    reachable(&arrows, start)
                        .into_iter()
                        .filter(|file| reachable(&arrows, file).contains(start)),
                );
                circles.push(circle);
            }
        }
        circles
    }
}

fn reachable(arrows: &BTreeMap<String, BTreeSet<String>>, start: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut left = vec![start.to_owned()];
    while let Some(file) = left.pop() {
        for next in arrows.get(&file).into_iter().flatten() {
            if found.insert(next.clone()) {
                left.push(next.clone());
            }
        }
    }
    found
}

fn shortest_circle(
    arrows: &BTreeMap<String, BTreeSet<String>>,
    start: &str,
) -> Option<Vec<String>> {
    let mut ways = std::collections::VecDeque::from([vec![start.to_owned()]]);
    let mut seen = BTreeSet::new();
    while let Some(way) = ways.pop_front() {
        let last = way.last()?;
        for next in arrows.get(last).into_iter().flatten() {
            let longer = [way.as_slice(), std::slice::from_ref(next)].concat();
            if next == start {
                return Some(longer);
            }
            if seen.insert(next.clone()) {
                ways.push_back(longer);
            }
        }
    }
    None
}

fn collect(root: &Path, folder: &str, files: &mut Vec<(String, String)>) {
    let entries = fs::read_dir(root.join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
    for entry in entries {
        let entry = entry.expect("a file");
        let name = entry.file_name().into_string().expect("a name in UTF-8");
        let path = format!("{folder}/{name}");
        if entry.path().is_dir() && name != "tests" {
            collect(root, &path, files);
        } else if name.ends_with(".rs") && name != "tests.rs" {
            files.push((path, fs::read_to_string(entry.path()).expect("a source file")));
        }
    }
}

fn module_path(folder: &str, file: &str) -> Vec<String> {
    let inside = file.strip_prefix(folder).unwrap_or(file).trim_start_matches('/');
    let module = inside.trim_end_matches(".rs");
    let parts = module.split('/').filter(|part| !["lib", "mod"].contains(part));
    parts.map(str::to_owned).collect()
}

/// Reads the paths of one file.
struct Scanner<'a> {
    module: &'a [String],
    modules: &'a BTreeSet<Vec<String>>,
    tokens: Vec<(String, usize)>,
    at: usize,
    found: Vec<Reference>,
    /// Inline modules around, each with the depth of braces that it began at.
    inline: Vec<(String, usize)>,
    depth: usize,
}

impl<'a> Scanner<'a> {
    fn new(module: &'a [String], modules: &'a BTreeSet<Vec<String>>, text: &str) -> Self {
        let tokens = tokens(&source::code(text));
        Self { module, modules, tokens, at: 0, found: Vec::new(), inline: Vec::new(), depth: 0 }
    }

    fn scan(mut self) -> Vec<Reference> {
        while self.at < self.tokens.len() {
            match self.peek(0) {
                "#" if self.is_test_module() => self.skip_block(),
                "mod" if self.peek(2) == "{" => {
                    self.inline.push((self.peek(1).to_owned(), self.depth));
                    self.at += 2;
                }
                "{" => {
                    self.depth += 1;
                    self.at += 1;
                }
                "}" => {
                    self.depth = self.depth.saturating_sub(1);
                    let depth = self.depth;
                    self.inline.retain(|(_, at)| *at < depth);
                    self.at += 1;
                }
                "use" => {
                    let is_pub =
                        self.at > 0 && [")", "pub"].contains(&&*self.tokens[self.at - 1].0);
                    self.at += 1;
                    self.tree(None, is_pub, true);
                }
                _ if self.begins_path() => self.tree(None, false, false),
                _ => self.at += 1,
            }
        }
        self.found
    }

    fn peek(&self, ahead: usize) -> &str {
        self.tokens.get(self.at + ahead).map_or("", |(token, _)| token)
    }

    /// `#[cfg(test)] mod name {`
    fn is_test_module(&self) -> bool {
        let expected = ["#", "[", "cfg", "(", "test", ")", "]", "mod"];
        expected.iter().enumerate().all(|(ahead, token)| self.peek(ahead) == *token)
    }

    fn skip_block(&mut self) {
        let mut depth = 0;
        while self.at < self.tokens.len() {
            match self.peek(0) {
                "{" => depth += 1,
                "}" => depth -= 1,
                ";" if depth == 0 => break,
                _ => {}
            }
            let is_end = depth == 0 && self.peek(0) == "}";
            self.at += 1;
            if is_end {
                break;
            }
        }
    }

    fn begins_path(&self) -> bool {
        let follows = self.at > 0 && self.tokens[self.at - 1].0 == "::";
        !follows && self.peek(1) == "::" && self.resolve(self.peek(0)).is_some()
    }

    /// Module that the first segment of a path names, if it is one of this crate.
    fn resolve(&self, first: &str) -> Option<Vec<String>> {
        let here: Vec<_> =
            self.module.iter().cloned().chain(self.inline.iter().map(|(n, _)| n.clone())).collect();
        match first {
            "crate" => Some(Vec::new()),
            "self" => Some(here),
            "super" => Some(here.split_last()?.1.to_vec()),
            child => {
                let child = [self.module, &[child.to_owned()]].concat();
                self.modules.contains(&child).then_some(child)
            }
        }
    }

    /// Reads a path or a tree of `use`, below `prefix`.
    fn tree(&mut self, prefix: Option<Vec<String>>, is_pub: bool, is_use: bool) {
        let line = self.tokens.get(self.at).map_or(0, |(_, line)| *line);
        let is_first = prefix.is_none();
        let mut path = prefix.unwrap_or_default();
        let mut is_ours = !is_first;
        let mut segments = 0;
        loop {
            let token = self.peek(0).to_owned();
            match token.as_str() {
                "{" if is_use => {
                    self.at += 1;
                    while !["}", ""].contains(&self.peek(0)) {
                        let below = (is_ours || !is_first).then(|| path.clone());
                        self.tree(below, is_pub, true);
                        if self.peek(0) == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    return;
                }
                "*" if is_use => self.at += 1,
                _ if !is_word(&token) => return self.end(is_ours, path, line, is_pub, is_use),
                _ if is_first && segments == 0 => {
                    let start = self.resolve(&token);
                    is_ours = start.is_some();
                    path = start.unwrap_or_default();
                    self.at += 1;
                }
                "super" => {
                    path.pop();
                    self.at += 1;
                }
                "self" => self.at += 1,
                _ => {
                    path.push(token);
                    self.at += 1;
                }
            }
            segments += 1;
            if self.peek(0) != "::" {
                return self.end(is_ours, path, line, is_pub, is_use);
            }
            self.at += 1;
        }
    }

    fn end(&mut self, is_ours: bool, path: Vec<String>, line: usize, is_pub: bool, is_use: bool) {
        let mut alias = path.last().cloned();
        if is_use && self.peek(0) == "as" {
            alias = Some(self.peek(1).to_owned());
            self.at += 2;
        }
        if is_ours {
            self.found.push(Reference { path, alias, line, is_pub_use: is_use && is_pub });
        }
        // A tree of a foreign crate, or what cannot be read, must not stop the scan.
        if self.at < self.tokens.len() && is_use && ![",", "}", ";"].contains(&self.peek(0)) {
            self.at += 1;
        }
    }
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphanumeric() || c == '_')
}

/// Words, `::` and single marks, each with its line.
fn tokens(code: &str) -> Vec<(String, usize)> {
    let mut tokens = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let mut rest = line.trim_start();
        while let Some(first) = rest.chars().next() {
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            let length = match first {
                c if is_part(c) => rest.find(|c| !is_part(c)).unwrap_or(rest.len()),
                _ if rest.starts_with("::") => 2,
                c => c.len_utf8(),
            };
            tokens.push((rest[..length].to_owned(), number + 1));
            rest = rest[length..].trim_start();
        }
    }
    tokens
}
