//! The forms that values may have: durations, sizes, words, addresses, paths.
//!
//! A [`Form`] knows how its values are read and how to say what it expects; whoever asks a section for a key names
//! one. Reading gives the type that the rest of the program works with, or the text of a problem. Nothing here opens
//! a file.
//!
//! Durations are written with their unit (`"30s"`, `"1m 30s"`), sizes in octets or with `KiB`, `MiB`, `GiB`; a plain
//! number is a size, never a duration.

use std::{fmt, fmt::Display, ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration};

use ipnet::IpNet;
use toml::Value;

use crate::net::Address;

/// How a kind of value is read.
pub(super) struct Form<T> {
    expected: String,
    #[expect(clippy::type_complexity, reason = "spelt once, here")]
    read: Box<dyn Fn(&Value) -> Result<T, Option<&'static str>>>,
    quiet: bool,
}

impl<T> fmt::Debug for Form<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Form({})", self.expected)
    }
}

impl<T> Form<T> {
    /// A form whose `read` gives `None` for a bad value.
    pub(super) fn new(
        expected: impl Into<String>,
        read: impl Fn(&Value) -> Option<T> + 'static,
    ) -> Self {
        Self::explained(expected, move |value| read(value).ok_or(None))
    }

    /// A form whose `read` may say what is wrong with a bad value.
    fn explained(
        expected: impl Into<String>,
        read: impl Fn(&Value) -> Result<T, Option<&'static str>> + 'static,
    ) -> Self {
        Self {
            expected: expected.into(),
            read: Box::new(read),
            quiet: false,
        }
    }

    /// The same for values that may hold a secret where none belongs: what is found instead is not repeated.
    pub(super) fn quiet(self) -> Self {
        Self {
            quiet: true,
            ..self
        }
    }

    /// The value, or what is wrong with it.
    pub(super) fn read(&self, value: &Value) -> Result<T, String> {
        (self.read)(value).map_err(|problem| {
            let got = match value {
                Value::String(_) if self.quiet => "other text".to_owned(),
                value => got(value),
            };
            let problem = problem.unwrap_or("bad value");
            format!("{problem} (got {got}; expected {})", self.expected)
        })
    }

    /// What is expected.
    pub(super) fn expected(&self) -> &str {
        &self.expected
    }
}

/// A value as a problem shows it: on one line, not too long.
pub(super) fn got(value: &Value) -> String {
    match value {
        Value::String(text) if text.chars().count() > 64 => {
            let start: String = text.chars().take(64).collect();
            format!("{start:?} and more")
        }
        Value::String(text) => format!("{text:?}"),
        Value::Array(_) => "a list".to_owned(),
        Value::Table(_) => "a table".to_owned(),
        Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Datetime(_) => {
            value.to_string()
        }
    }
}

/// `true` or `false`.
pub(super) fn boolean() -> Form<bool> {
    Form::new("true or false", Value::as_bool)
}

/// Text of one line, not empty.
pub(super) fn text(expected: &'static str) -> Form<String> {
    Form::new(expected, |value| {
        let text = value.as_str()?;
        (!text.is_empty() && !text.chars().any(char::is_control)).then(|| text.to_owned())
    })
}

/// Text that a type's own parser takes.
pub(super) fn parsed<T: 'static>(
    expected: impl Into<String>,
    parse: impl Fn(&str) -> Option<T> + 'static,
) -> Form<T> {
    Form::new(expected, move |value| parse(value.as_str()?))
}

/// One of a few words.
pub(super) fn word<T: Copy + 'static>(words: &'static [(&'static str, T)]) -> Form<T> {
    parsed(one_of(words), move |text| find(words, text))
}

fn find<T: Copy>(words: &[(&str, T)], text: &str) -> Option<T> {
    words
        .iter()
        .find(|(word, _)| *word == text)
        .map(|(_, meaning)| *meaning)
}

fn one_of<T>(words: &[(&str, T)]) -> String {
    let words: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
    words.join(" or ")
}

/// One value, or a list of one and up to `most` of its form.
pub(super) fn one_or_more<T: 'static>(form: Form<T>, most: usize) -> Form<Vec<T>> {
    let expected = format!("{}, or a list of up to {most} of these", form.expected());
    Form::new(expected, move |value| {
        let Some(list) = value.as_array() else {
            return Some(vec![form.read(value).ok()?]);
        };
        let is_right = (1..=most).contains(&list.len());
        let read = |value| form.read(value).ok();
        is_right.then(|| list.iter().map(read).collect())?
    })
}

/// A whole number in a range.
pub(super) fn integer<N>(range: RangeInclusive<N>) -> Form<N>
where
    N: Copy + Display + PartialOrd + TryFrom<i64> + 'static,
{
    let expected = format!("a whole number from {} to {}", range.start(), range.end());
    Form::new(expected, move |value| {
        let number = N::try_from(value.as_integer()?).ok()?;
        range.contains(&number).then_some(number)
    })
}

/// A time with its unit, in a range.
pub(super) fn duration(range: RangeInclusive<Duration>) -> Form<Duration> {
    let [from, to] = [range.start(), range.end()].map(|end| humantime::format_duration(*end));
    let expected = format!("a time from {from} to {to} with its unit, as \"30s\"");
    parsed(expected, move |text| {
        let duration = humantime::parse_duration(text).ok()?;
        range.contains(&duration).then_some(duration)
    })
}

/// A size in octets, in a range.
pub(super) fn size(range: RangeInclusive<u64>) -> Form<usize> {
    let [from, to] = [range.start(), range.end()];
    let expected = format!("a size from {from} to {to} octets, as 8192 or \"8KiB\"");
    Form::new(expected, move |value| {
        let octets = match value {
            Value::Integer(octets) => u64::try_from(*octets).ok()?,
            Value::String(text) => octets(text)?,
            Value::Array(_)
            | Value::Boolean(_)
            | Value::Datetime(_)
            | Value::Float(_)
            | Value::Table(_) => return None,
        };
        range.contains(&octets).then_some(octets)?.try_into().ok()
    })
}

fn octets(text: &str) -> Option<u64> {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, unit) = text.split_at_checked(end)?;
    let factor: u64 = match unit.trim_start() {
        "" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// An absolute path without `.` or `..`. What is found instead is not repeated: people paste secrets here.
pub(super) fn path(expected: impl Into<String>) -> Form<PathBuf> {
    Form {
        quiet: true,
        ..parsed(expected, |text| {
            let dotted = text.split('/').any(|part| part == "." || part == "..");
            (text.starts_with('/') && !dotted && !text.chars().any(char::is_control))
                .then(|| PathBuf::from(text))
        })
    }
}

/// The path of a Unix socket.
pub(super) fn socket_path() -> Form<PathBuf> {
    parsed(
        "the path of a Unix socket, at most 107 octets",
        |text| match Address::parse(text)? {
            Address::Unix(path) => Some(path),
            Address::Tcp { .. } => None,
        },
    )
}

/// The same with room for a process's id behind it.
pub(super) fn common_socket_path() -> Form<PathBuf> {
    parsed(
        "the path of a Unix socket, at most 99 octets",
        |text| match Address::parse(text)? {
            Address::Unix(path) if path.as_os_str().len() <= 99 => Some(path),
            Address::Unix(_) | Address::Tcp { .. } => None,
        },
    )
}

/// An endpoint to connect to.
pub(super) fn address() -> Form<Address> {
    parsed(
        "\"host:port\", \"[IPv6]:port\" or the path of a Unix socket",
        Address::parse,
    )
}

/// Text with a standard parser: addresses of listeners, IP addresses.
pub(super) fn standard<T: FromStr + 'static>(expected: &'static str) -> Form<T> {
    parsed(expected, |text| text.parse().ok())
}

/// A network in CIDR notation, or one address.
pub(super) fn network() -> Form<IpNet> {
    parsed("a network, as \"10.0.0.0/8\" or \"::1\"", |text| {
        let network: IpNet = match text.parse() {
            Ok(network) => network,
            Err(_) => text.parse::<std::net::IpAddr>().ok()?.into(),
        };
        Some(network.trunc())
    })
}

/// A point in time (RFC 3339), as text or as TOML's own kind.
pub(super) fn instant() -> Form<jiff::Timestamp> {
    Form::new(
        "a time with its zone, as \"2030-01-01T00:00:00Z\"",
        |value| match value {
            Value::String(text) => text.parse().ok(),
            Value::Datetime(datetime) => datetime.to_string().parse().ok(),
            Value::Array(_)
            | Value::Boolean(_)
            | Value::Float(_)
            | Value::Integer(_)
            | Value::Table(_) => None,
        },
    )
}

/// A range of uids or gids: a list of two. 0 is not among them: nothing is ever done as root on behalf of a user.
pub(super) fn ids() -> Form<RangeInclusive<u32>> {
    let expected = format!("[from, to], each from 1 to {LAST_ID}");
    Form::new(expected, |value| {
        let [from, to] = value.as_array()?.as_slice() else {
            return None;
        };
        let [from, to] = [from, to].map(|end| u32::try_from(end.as_integer()?).ok());
        let (from, to) = (from?, to?);
        (1 <= from && from <= to && to <= LAST_ID).then_some(from..=to)
    })
}

/// The largest uid or gid: the one above means "unchanged" to the kernel.
pub(super) const LAST_ID: u32 = u32::MAX - 1;

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T>(form: &Form<T>, toml: &str) -> Result<T, String> {
        let table: toml::Table = format!("x = {toml}").parse().unwrap();
        form.read(&table["x"])
    }

    #[test]
    fn durations_need_a_unit_and_keep_their_bounds() {
        let form = duration(Duration::from_millis(100)..=Duration::from_secs(3600));
        assert_eq!(read(&form, "'90s'"), Ok(Duration::from_secs(90)));
        assert_eq!(read(&form, "'1m 30s'"), Ok(Duration::from_secs(90)));
        assert_eq!(read(&form, "'1h'"), Ok(Duration::from_secs(3600)));
        for bad in [
            "'30'", "30", "'1ms'", "'2h'", "'-1s'", "''", "true", "['1s']",
        ] {
            assert!(read(&form, bad).is_err(), "{bad}");
        }
        assert_eq!(
            read(&form, "'2h'").unwrap_err(),
            "bad value (got \"2h\"; expected a time from 100ms to 1h with its unit, as \"30s\")"
        );
    }

    #[test]
    fn sizes_take_numbers_and_binary_units() {
        let form = size(1..=1 << 30);
        assert_eq!(read(&form, "512"), Ok(512));
        assert_eq!(read(&form, "'512'"), Ok(512));
        assert_eq!(read(&form, "'64KiB'"), Ok(65_536));
        assert_eq!(read(&form, "'20 MiB'"), Ok(20 << 20));
        assert_eq!(read(&form, "'1GiB'"), Ok(1 << 30));
        for bad in [
            "0",
            "-1",
            "'64KB'",
            "'KiB'",
            "'1.5KiB'",
            "'2GiB'",
            "'18446744073709551615GiB'",
            "1.0",
            "'é'",
        ] {
            assert!(read(&form, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_of_ids_exclude_root() {
        let form = ids();
        assert_eq!(read(&form, "[1000, 4294967294]"), Ok(1000..=LAST_ID));
        for bad in [
            "[0, 10]",
            "[10, 9]",
            "[1000]",
            "[1, 4294967295]",
            "'1-2'",
            "[1, 2, 3]",
            "['1', 2]",
        ] {
            assert!(read(&form, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_path_that_is_a_secret_is_not_repeated() {
        let problem = read(&path("the path of a file"), "'0123456789abcdef'").unwrap_err();
        assert_eq!(
            problem,
            "bad value (got other text; expected the path of a file)"
        );
        assert!(read(&path("p"), "'/a/../b'").is_err());
        assert!(read(&path("p"), "'/a/b..c'").is_ok());
    }

    #[test]
    fn times_and_networks_are_read_in_their_usual_forms() {
        let text = read(&instant(), "'2030-01-01T00:00:00Z'").unwrap();
        assert_eq!(read(&instant(), "2030-01-01T00:00:00Z"), Ok(text));
        assert!(read(&instant(), "2030-01-01").is_err());
        assert_eq!(
            read(&network(), "'10.1.2.3/8'").unwrap().to_string(),
            "10.0.0.0/8"
        );
        assert_eq!(read(&network(), "'::1'").unwrap().to_string(), "::1/128");
        assert!(read(&network(), "'10.0.0.0/33'").is_err());
    }

    #[test]
    fn what_was_found_stays_on_one_short_line() {
        let problem = read(&boolean(), "\"a\\nb\"").unwrap_err();
        assert_eq!(problem, "bad value (got \"a\\nb\"; expected true or false)");
        let long = format!("'{}'", "x".repeat(500));
        assert!(read(&boolean(), &long).unwrap_err().len() < 150);
    }
}
