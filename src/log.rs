//! The log: one line per event on standard error, a fixed sentence and then fields.
//!
//! ```text
//! 2030-01-01T00:00:00.000000Z  INFO session ended account=ann client=192.0.2.7:40000 outcome=ok
//! ```
//!
//! A field's value is written bare when it consists of harmless characters only, else in double quotes with `\"`,
//! `\\`, and every control character, line or paragraph separator and change of writing direction as `\u{..}`. So
//! whatever a client sends as its name ends neither the line nor the field. `format = "json"` writes the same as one
//! flat object per line, where JSON's own quoting does it.
//!
//! Where standard error is the journal (`$JOURNAL_STREAM` names its socket), a line begins with its priority as in syslog
//! (`<3>` for an error), which the journal takes off and `journalctl -p err` asks for; and text has no time, since the journal has its own.
//!
//! It prints the events of this program at the configured level, those of libraries from `warn` up: they would print
//! what they send and receive. Spans are not printed; an event carries its own fields. No colours unless standard
//! error is a terminal. Nothing is written elsewhere, and nothing is rotated: that is the service manager's work.
//!
//! Text that a peer chose is given as a field, never put into the sentence; `%value` for what has `Display`.

use std::{
    fmt::{self, Write as _},
    io::{self, IsTerminal as _},
    sync::OnceLock,
};

use rustix::fs::Stat;
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    level_filters::LevelFilter,
};
use tracing_subscriber::{
    Layer as _,
    filter::Targets,
    fmt::{
        FmtContext, FormatEvent, FormatFields, MakeWriter,
        format::Writer,
        time::{FormatTime as _, SystemTime},
    },
    layer::SubscriberExt as _,
    registry::{LookupSpan, Registry},
    reload,
};

/// What is printed by the log of this process.
static LEVELS: OnceLock<reload::Handle<Targets, Registry>> = OnceLock::new();

/// How the log is written.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Settings {
    /// As text or JSON; default text.
    pub format: Format,
    /// The least important level that is printed; default info.
    pub level: Level,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            format: Format::Text,
            level: Level::INFO,
        }
    }
}

/// The form of a line.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Format {
    /// One flat object.
    Json,
    /// A sentence and fields.
    Text,
}

/// The process has a log already.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the log was started before")]
pub struct StartedError;

/// Starts the log of this process.
///
/// # Errors
///
/// When it was started before.
pub fn start(settings: &Settings) -> Result<(), StartedError> {
    let colours = io::stderr().is_terminal();
    let (filter, levels) = reload::Layer::new(targets(settings.level));
    let stream = std::env::var("JOURNAL_STREAM").ok();
    let stderr = rustix::fs::fstat(io::stderr()).ok();
    let in_journal = stream.zip(stderr).is_some_and(is_same);
    let subscriber = subscriber(settings, filter, colours, in_journal, io::stderr);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| StartedError)?;
    LEVELS.set(levels).map_err(|_| StartedError)
}

/// The least important level that is printed from now on, if the log was started.
pub fn set_level(level: Level) {
    if let Some(levels) = LEVELS.get() {
        // It lives as long as the process.
        let _ = levels.reload(targets(level));
    }
}

/// What is printed of this program and of libraries.
fn targets(level: Level) -> Targets {
    let libraries = LevelFilter::WARN.min(LevelFilter::from_level(level));
    Targets::new()
        .with_default(libraries)
        .with_target(env!("CARGO_PKG_NAME"), level)
}

/// Whether a stream is that of the journal: device and inode in decimal, with a colon between.
fn is_same((journal, stream): (String, Stat)) -> bool {
    let numbers = journal.split_once(':');
    let parsed = numbers.map(|(device, inode)| (device.parse(), inode.parse()));
    parsed == Some((Ok(stream.st_dev), Ok(stream.st_ino)))
}

fn subscriber<W>(
    settings: &Settings,
    filter: reload::Layer<Targets, Registry>,
    colours: bool,
    in_journal: bool,
    writer: W,
) -> impl Subscriber + Send + Sync + use<W>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = tracing_subscriber::fmt::layer().with_writer(writer);
    let lines = match settings.format {
        Format::Json => lines
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_target(false)
            .map_event_format(|line| Prioritised { line, in_journal })
            .boxed(),
        Format::Text => lines
            .with_ansi(colours)
            .event_format(Prioritised {
                line: Line { in_journal },
                in_journal,
            })
            .boxed(),
    };
    tracing_subscriber::registry().with(lines.with_filter(filter))
}

/// Writes a line behind its priority, for the journal.
#[derive(Debug)]
struct Prioritised<L> {
    line: L,
    in_journal: bool,
}

impl<S, N, L> FormatEvent<S, N> for Prioritised<L>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
    L: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        if self.in_journal {
            write!(writer, "<{}>", priority(*event.metadata().level()))?;
        }
        self.line.format_event(context, writer, event)
    }
}

/// The number that syslog has for a level.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        _ => 7,
    }
}

/// Writes an event as one line of text.
#[derive(Debug)]
struct Line {
    /// Which knows the time by itself.
    in_journal: bool,
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'s> LookupSpan<'s>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        if self.in_journal {
            write!(writer, "{level}")?;
        } else if writer.has_ansi_escapes() {
            SystemTime.format_time(&mut writer)?;
            write!(writer, " \x1b[{}m{level:>5}\x1b[0m", colour(level))?;
        } else {
            SystemTime.format_time(&mut writer)?;
            write!(writer, " {level:>5}")?;
        }
        let mut parts = Parts::default();
        event.record(&mut parts);
        writeln!(writer, "{}{}", parts.sentence, parts.fields)
    }
}

/// The colour of a level on a terminal: red, yellow, green, none.
fn colour(level: Level) -> u8 {
    match level {
        Level::ERROR => 31,
        Level::WARN => 33,
        Level::INFO => 32,
        _ => 0,
    }
}

/// An event's sentence and fields, each with a blank in front.
#[derive(Default)]
struct Parts {
    sentence: String,
    fields: String,
}

impl Parts {
    fn add(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.sentence.push(' ');
            escape(value, &mut self.sentence);
            return;
        }
        self.fields.push(' ');
        self.fields.push_str(field.name());
        self.fields.push('=');
        if !value.is_empty() && value.chars().all(is_harmless) {
            self.fields.push_str(value);
        } else {
            self.fields.push('"');
            escape(value, &mut self.fields);
            self.fields.push('"');
        }
    }
}

impl Visit for Parts {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value);
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, &format!("{value:?}"));
    }
}

/// Whether a character may stand in a value without quotes.
fn is_harmless(c: char) -> bool {
    c.is_alphanumeric() || "-_.:/@+,[]()*%~!#&^".contains(c)
}

/// Writes a text so that it stays on its line and between its quotes, and reads in the order it is written.
fn escape(text: &str, out: &mut String) {
    for c in text.chars() {
        let moves = matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() || moves => {
                // Writing to a String cannot fail.
                let _ = write!(out, "\\u{{{:x}}}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, octets: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(octets);
            Ok(octets.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Captured {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    /// What `log` writes, without the time.
    fn written(settings: Settings, log: impl FnOnce()) -> Vec<String> {
        let captured = Captured::default();
        let subscriber = subscriber(
            &settings,
            reload::Layer::new(targets(settings.level)).0,
            false,
            false,
            captured.clone(),
        );
        tracing::subscriber::with_default(subscriber, log);
        let octets = captured.0.lock().unwrap().clone();
        String::from_utf8(octets)
            .unwrap()
            .lines()
            .map(|line| match settings.format {
                Format::Json => line.to_owned(),
                Format::Text => line.split_once('Z').unwrap().1.to_owned(),
            })
            .collect()
    }

    fn text(level: Level, log: impl FnOnce()) -> Vec<String> {
        let format = Format::Text;
        written(Settings { format, level }, log)
    }

    #[test]
    fn a_line_is_a_sentence_and_fields() {
        let lines = text(Level::INFO, || {
            tracing::info!(account = "ann", bytes_in = 7, tls = true, client = %"[::1]:9", "session ended");
        });
        assert_eq!(
            lines,
            ["  INFO session ended account=ann bytes_in=7 tls=true client=[::1]:9"]
        );
    }

    #[test]
    fn no_value_forges_a_line_or_a_field() {
        let hostile =
            "ann outcome=ok\n2030-01-01T00:00:00Z ERROR forged\r\x1b[2J\u{85}\u{2028}\u{202e}\"\\";
        let escaped = r#""ann outcome=ok\u{a}2030-01-01T00:00:00Z ERROR forged\u{d}\u{1b}[2J\u{85}\u{2028}\u{202e}\"\\""#;
        let lines = text(Level::INFO, || {
            tracing::info!(login = %hostile, "refused");
            tracing::info!(login = hostile, "refused");
            tracing::info!(login = "", other = "Zoë", "refused");
            let error = io::Error::other(hostile);
            tracing::info!(error = &error as &dyn std::error::Error, "refused");
        });
        assert_eq!(lines.len(), 4);
        assert_eq!(lines[0], format!("  INFO refused login={escaped}"));
        assert_eq!(lines[1], lines[0]);
        assert_eq!(lines[2], "  INFO refused login=\"\" other=Zoë");
        assert_eq!(lines[3], format!("  INFO refused error={escaped}"));
    }

    #[test]
    fn a_sentence_stays_on_its_line() {
        let peer = "x\ny";
        let lines = text(Level::INFO, || tracing::info!("from {peer}"));
        assert_eq!(lines, [r"  INFO from x\u{a}y"]);
    }

    #[test]
    fn json_is_flat_and_quotes_by_itself() {
        let settings = Settings {
            format: Format::Json,
            level: Level::INFO,
        };
        let lines = written(settings, || {
            let span = tracing::info_span!("outer", hidden = 1);
            let _entered = span.enter();
            tracing::info!(login = %"a\n\"b\"", bytes_in = 7, "session ended");
        });
        assert_eq!(lines.len(), 1);
        let (time, rest) = lines[0].split_once("\",").unwrap();
        assert!(time.starts_with("{\"timestamp\":\""), "{time}");
        assert_eq!(
            rest,
            r#""level":"INFO","message":"session ended","login":"a\n\"b\"","bytes_in":7}"#
        );
    }

    #[test]
    fn levels_are_those_of_the_program_and_libraries_warn_only() {
        let log = || {
            tracing::debug!("steps");
            tracing::info!(target: "ldap3", "octets on the wire");
            tracing::warn!(target: "hyper", "trouble");
        };
        assert_eq!(text(Level::DEBUG, log), [" DEBUG steps", "  WARN trouble"]);
        assert_eq!(text(Level::INFO, log), ["  WARN trouble"]);
        assert_eq!(text(Level::ERROR, log), [""; 0]);
    }

    #[test]
    fn the_journal_has_priorities_and_its_own_time() {
        for (format, expected) in [
            (
                Format::Text,
                [
                    "<3>ERROR away node=n1",
                    "<4>WARN near",
                    "<6>INFO done",
                    "<7>DEBUG steps",
                ]
                .as_slice(),
            ),
            (
                Format::Json,
                &["<3>{\"timestamp\":", "<4>{", "<6>{", "<7>{"],
            ),
        ] {
            let captured = Captured::default();
            let level = Level::DEBUG;
            let subscriber = subscriber(
                &Settings { format, level },
                reload::Layer::new(targets(level)).0,
                false,
                true,
                captured.clone(),
            );
            tracing::subscriber::with_default(subscriber, || {
                tracing::error!(node = "n1", "away");
                tracing::warn!("near");
                tracing::info!("done");
                tracing::debug!("steps");
            });
            let octets = captured.0.lock().unwrap().clone();
            let text = String::from_utf8(octets).unwrap();
            let lines: Vec<&str> = text.lines().collect();
            assert_eq!(lines.len(), 4);
            for (line, expected) in lines.iter().zip(expected) {
                let is_it = match format {
                    Format::Json => line.starts_with(expected),
                    Format::Text => line == expected,
                };
                assert!(is_it, "{line} is not {expected}");
            }
        }
    }

    #[test]
    fn the_journal_is_known_by_its_socket() {
        let file = tempfile::tempfile().unwrap();
        let stat = rustix::fs::fstat(&file).unwrap();
        let is = |name: String| is_same((name, stat));
        assert!(is(format!("{}:{}", stat.st_dev, stat.st_ino)));
        assert!(!is(format!("{}:{}", stat.st_dev, stat.st_ino + 1)));
        assert!(!is(format!("{}:{}", stat.st_dev + 1, stat.st_ino)));
        assert!(!is(format!("{}", stat.st_ino)));
        assert!(!is(String::new()));
    }
}
