//! Arguments of directives: reading, checking, and the errors for what is wrong.

use core::fmt;
use core::time::Duration;
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;

use nginx::{Conf, ConfError};

/// First argument of the directive.
pub(super) fn first(cf: &Conf<'_>) -> String {
    cf.arguments().into_iter().nth(1).unwrap_or_default()
}

/// Sets the value of a directive that may stand once at a level.
pub(super) fn set_once<T>(slot: &mut Option<T>, value: T) -> Result<(), ConfError> {
    match slot {
        Some(_) => Err(ConfError::Duplicate),
        None => {
            *slot = Some(value);
            Ok(())
        }
    }
}

/// Sets the value of an `on | off` directive.
pub(super) fn set_flag(cf: &Conf<'_>, slot: &mut Option<bool>) -> Result<(), ConfError> {
    let arguments = cf.arguments();
    let mut words = arguments.iter().map(String::as_str);
    let (name, value) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    set_once(slot, flag(name, value)?)
}

/// Whether `name` may name a project or a zone.
pub(super) fn is_name(name: &str) -> bool {
    const LONGEST: usize = 64;
    name.len() <= LONGEST
        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// `value` for an error message, shortened: nginx cuts off long lines.
pub(super) fn truncated(value: &str) -> String {
    const LONGEST: usize = 100;
    match value.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}...", value.get(..end).unwrap_or_default()),
        None => value.to_owned(),
    }
}

/// The error for a wrong value; `right` says which values are right.
pub(super) fn invalid(key: &str, value: &str, right: &str) -> ConfError {
    let value = truncated(value);
    ConfError::new(format!("invalid value \"{value}\" in \"{key}\" directive, it must be {right}"))
}

/// A time from `least` to a day.
pub(super) fn time(key: &str, value: &str, least: Duration) -> Result<Duration, ConfError> {
    const MOST: Duration = Duration::from_secs(86400);
    Conf::parse_time(value).filter(|time| (least..=MOST).contains(time)).ok_or_else(|| {
        let from = match least.as_secs() {
            0 => "above 0 and up to 1d, such as 500ms or 5s".to_owned(),
            seconds => format!("from {seconds}s to 1d"),
        };
        invalid(key, value, &format!("a time {from}"))
    })
}

/// A number from `least` to `most`.
pub(super) fn number<T>(key: &str, value: &str, least: T, most: T) -> Result<T, ConfError>
where
    T: PartialOrd + fmt::Display + std::str::FromStr,
{
    value
        .parse()
        .ok()
        .filter(|number| (&least..=&most).contains(&number))
        .ok_or_else(|| invalid(key, value, &format!("a number from {least} to {most}")))
}

/// `on` or `off`.
pub(super) fn flag(key: &str, value: &str) -> Result<bool, ConfError> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(invalid(key, value, "\"on\" or \"off\"")),
    }
}

/// The name in `$name` or `${name}`.
pub(super) fn variable_name(word: &str) -> Option<&str> {
    let name = word.strip_prefix('$')?;
    let name = name.strip_prefix('{').and_then(|name| name.strip_suffix('}')).unwrap_or(name);
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    (!name.is_empty() && name.bytes().all(is_name)).then_some(name)
}

/// Reads a file that nobody else may read, at most one byte more than `most`. Returns the file's name
/// for messages, too. Warns if everybody can read it. `what` says what is in it.
pub(super) fn read_secret_file(
    cf: &mut Conf<'_>,
    what: &str,
    path: &str,
    most: usize,
) -> Result<(String, Vec<u8>), ConfError> {
    const READABLE_BY_OTHERS: u32 = 0o004;
    let path = cf.full_path(path)?;
    let name = path.display().to_string();
    let unreadable =
        |error| ConfError::new(format!("cannot read the {what} file \"{name}\": {error}"));
    let file = File::open(&path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.mode();
    let mut text = Vec::new();
    file.take(most as u64 + 1).read_to_end(&mut text).map_err(unreadable)?;
    if mode & READABLE_BY_OTHERS != 0 {
        cf.warn(format_args!(
            "the {what} file \"{name}\" can be read by everybody (mode {:04o})",
            mode & 0o7777
        ));
    }
    Ok((name, text))
}
