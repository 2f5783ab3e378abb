//! The files of a configuration: the output of `nginx -T`, or files on disk with their includes.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::syntax::{self, Directive, SyntaxError};

/// Largest configuration that is read, in bytes.
const MAX_SIZE: usize = 64 * 1024 * 1024;

/// Deepest chain of includes.
const MAX_INCLUDES: usize = 32;

/// Text before each file in the output of `nginx -T`.
const MARK: &str = "# configuration file ";

/// Error of [`read`].
#[derive(Debug, Error)]
pub enum SourceError {
    /// nginx's syntax is not kept.
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    /// A file cannot be read.
    #[error("cannot read \"{0}\": {1}")]
    File(String, std::io::Error),
    /// An included file is not in the output of `nginx -T`.
    #[error("the included file \"{0}\" is not in the input: give the whole output of nginx -T")]
    Missing(String),
    /// A pattern of `include` is malformed.
    #[error("invalid pattern \"{0}\" of an include")]
    Pattern(String),
    /// Files include each other in a circle.
    #[error("the includes of \"{0}\" are nested too deeply")]
    Depth(String),
    /// More than is read.
    #[error("the configuration is larger than 64 MB")]
    Size,
}

/// A configuration with all includes in their places.
#[derive(Debug)]
pub struct Source {
    /// Directives of the main context.
    pub directives: Vec<Directive>,
    /// Folder of the main file: relative names of the configuration start there.
    pub folder: PathBuf,
}

enum Files {
    Dump(BTreeMap<String, String>),
    Disk,
}

struct Loader {
    files: Files,
    folder: PathBuf,
    /// Bytes that may still be read.
    left: usize,
}

/// Reads a configuration. `text` is the content of `file`, or the output of `nginx -T`.
///
/// # Errors
///
/// See [`SourceError`].
pub fn read(file: &Path, text: String) -> Result<Source, SourceError> {
    let dump = split(&text);
    let (name, text, files) = match dump.first().cloned() {
        Some((name, text)) => (name, text, Files::Dump(dump.into_iter().rev().collect())),
        None => (file.display().to_string(), text, Files::Disk),
    };
    let folder = Path::new(&name).parent().unwrap_or(Path::new("/")).to_owned();
    let mut loader = Loader { files, folder, left: MAX_SIZE };
    let directives = loader.load(&name, &text, 0)?;
    Ok(Source { directives, folder: loader.folder })
}

/// Files in the output of `nginx -T`, in its order; none if it is a plain file.
fn split(text: &str) -> Vec<(String, String)> {
    let mut files: Vec<(String, String)> = Vec::new();
    for line in text.split_inclusive('\n') {
        let name = line.strip_prefix(MARK).and_then(|rest| rest.trim_end().strip_suffix(':'));
        match (name, files.last_mut()) {
            (Some(name), _) => files.push((name.to_owned(), String::new())),
            (None, Some((_, content))) => content.push_str(line),
            // Messages of nginx, if they were written to the same file.
            (None, None) => {}
        }
    }
    files
}

impl Loader {
    fn load(
        &mut self,
        name: &str,
        text: &str,
        depth: usize,
    ) -> Result<Vec<Directive>, SourceError> {
        self.left = self.left.checked_sub(text.len()).ok_or(SourceError::Size)?;
        if depth > MAX_INCLUDES {
            return Err(SourceError::Depth(name.to_owned()));
        }
        let read = syntax::parse(name, text)?;
        self.expand(read, depth)
    }

    fn expand(
        &mut self,
        directives: Vec<Directive>,
        depth: usize,
    ) -> Result<Vec<Directive>, SourceError> {
        let mut expanded = Vec::with_capacity(directives.len());
        for mut directive in directives {
            if directive.name == "include" && directive.block.is_none() {
                for (name, text) in self.included(directive.first())? {
                    expanded.extend(self.load(&name, &text, depth + 1)?);
                }
                continue;
            }
            if let Some(block) = directive.block.take() {
                directive.block = Some(self.expand(block, depth)?);
            }
            expanded.push(directive);
        }
        Ok(expanded)
    }

    fn included(&self, pattern: &str) -> Result<Vec<(String, String)>, SourceError> {
        let full = self.folder.join(pattern).display().to_string();
        let has_wildcards = full.contains(['*', '?', '[']);
        match &self.files {
            Files::Dump(files) if has_wildcards => {
                let pattern = glob::Pattern::new(&full).map_err(|_| SourceError::Pattern(full))?;
                let options = glob::MatchOptions {
                    case_sensitive: true,
                    require_literal_separator: true,
                    require_literal_leading_dot: true,
                };
                let fits = |name: &str| pattern.matches_with(name, options);
                let files = files.iter().filter(|(name, _)| fits(name));
                Ok(files.map(|(name, text)| (name.clone(), text.clone())).collect())
            }
            Files::Dump(files) => match files.get(&full) {
                Some(text) => Ok(vec![(full, text.clone())]),
                None => Err(SourceError::Missing(full)),
            },
            Files::Disk if has_wildcards => {
                let options = glob::MatchOptions {
                    require_literal_leading_dot: true,
                    ..glob::MatchOptions::default()
                };
                let found = glob::glob_with(&full, options);
                let found = found.map_err(|_| SourceError::Pattern(full))?;
                found.filter_map(Result::ok).map(|path| read_file(&path)).collect()
            }
            Files::Disk => Ok(vec![read_file(Path::new(&full))?]),
        }
    }
}

fn read_file(path: &Path) -> Result<(String, String), SourceError> {
    let name = path.display().to_string();
    match fs::read(path) {
        Ok(bytes) => Ok((name, String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) => Err(SourceError::File(name, error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(source: &Source) -> Vec<String> {
        let place = |directive: &Directive| format!("{} {}", directive.name, directive.place);
        source.directives.iter().map(place).collect()
    }

    #[test]
    fn the_output_of_nginx_t_is_put_together_again() {
        let dump = "nginx: the configuration file /e/n.conf syntax is ok\n\
                    # configuration file /e/n.conf:\na;\ninclude d/*.conf;\ninclude one;\nz;\n\n\
                    # configuration file /e/d/2.conf:\nc;\n\n# configuration file /e/d/1.conf:\nb;\n\n\
                    # configuration file /e/one:\nd;\n";
        let source = read(Path::new("-"), dump.into()).expect("valid");
        let expected =
            ["a /e/n.conf:1", "b /e/d/1.conf:1", "c /e/d/2.conf:1", "d /e/one:1", "z /e/n.conf:4"];
        assert_eq!(names(&source), expected);
        assert_eq!(source.folder, Path::new("/e"));
    }

    #[test]
    fn a_file_that_the_output_lacks_is_an_error() {
        let dump = "# configuration file /e/n.conf:\ninclude other;\n";
        let error = read(Path::new("-"), dump.into()).expect_err("missing");
        assert!(error.to_string().contains("\"/e/other\""), "{error}");
    }

    #[test]
    fn includes_are_followed_on_disk_from_the_folder_of_the_main_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = |name: &str, text: &str| {
            fs::write(dir.path().join(name), text).expect("a file");
        };
        fs::create_dir(dir.path().join("d")).expect("a folder");
        file("d/2.conf", "c; include one;");
        file("d/1.conf", "b;");
        file("d/.hidden.conf", "h;");
        file("d/other", "o;");
        file("one", "d;");
        let text = "a { include d/*.conf; } include none/*.conf;";
        let source = read(&dir.path().join("nginx.conf"), text.into()).expect("valid");
        let inner: Vec<_> =
            source.directives[0].children().iter().map(|d| d.name.clone()).collect();
        assert_eq!(inner, ["b", "c", "d"]);
        let error = read(&dir.path().join("nginx.conf"), "include none;".into());
        assert!(matches!(error, Err(SourceError::File(..))), "{error:?}");
    }

    #[test]
    fn files_that_include_each_other_are_refused() {
        let dump = "# configuration file /e/n.conf:\ninclude n.conf;\n";
        let error = read(Path::new("-"), dump.into()).expect_err("a circle");
        assert!(matches!(error, SourceError::Depth(_)), "{error}");
    }
}
