//! nginx's logs: waiting for lines, and detecting trouble.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::PoisonError;

use super::process::Nginx;
use crate::wait::{eventually, DEADLINE};

const TROUBLES: [&str; 4] = ["[alert]", "[emerg]", "panicked", "exited on signal"];
const TAIL: usize = 100;

impl Nginx {
    /// The error log, debug lines included.
    pub fn error_log(&self) -> String {
        self.log("error.log")
    }

    pub fn access_log(&self) -> String {
        self.log("access.log")
    }

    /// Waits for the first line of the error log that has the text, and returns it.
    #[track_caller]
    pub fn wait_for_error_log(&self, text: &str) -> String {
        let mut found = None;
        eventually(DEADLINE, || {
            found = self.error_log().lines().find(|line| line.contains(text)).map(str::to_owned);
            found.is_some()
        });
        found.unwrap_or_else(|| panic!("{text:?} was not logged"))
    }

    /// Waits for `n` lines of the access log: they come after the answers. Gives back all.
    #[track_caller]
    pub fn wait_for_access_lines(&self, n: usize) -> Vec<String> {
        let mut log = String::new();
        let enough = eventually(DEADLINE, || {
            log = self.access_log();
            log.lines().count() >= n
        });
        assert!(enough, "the access log is short of {n} lines:\n{log}");
        log.lines().map(str::to_owned).collect()
    }

    /// Lines of the error log with this text are no trouble.
    pub fn allow_log(&self, text: &str) {
        self.allowed.lock().unwrap_or_else(PoisonError::into_inner).push(text.to_owned());
    }

    /// The lines for which a test fails.
    pub(super) fn troubles(&self) -> Vec<String> {
        let allowed = self.allowed.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lines = self.lines();
        lines.retain(|line| {
            TROUBLES.iter().any(|trouble| line.contains(trouble))
                && !allowed.iter().any(|text| line.contains(text))
        });
        lines
    }

    /// The last lines, for the report of a failed test.
    pub(super) fn troubles_tail(&self) -> String {
        let lines = self.lines();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    /// All that was logged, debug lines left out.
    fn lines(&self) -> Vec<String> {
        let all = self.log("stderr.log") + &self.error_log();
        all.lines().filter(|line| !line.contains("[debug]")).map(str::to_owned).collect()
    }

    fn log(&self, name: &str) -> String {
        // A log may be cut within a character, and need not be text.
        let bytes = fs::read(self.dir().join("logs").join(name)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// Adds a line of our own to the error log.
pub(super) fn append(dir: &Path, line: &str) {
    let log = OpenOptions::new().append(true).create(true).open(dir.join("logs/error.log"));
    let _ = log.and_then(|mut log| writeln!(log, "{line}"));
}
