//! Writing for people and for scripts.
//!
//! Names and values come out of files that anybody may have written. Nothing of them
//! reaches a terminal that could move its cursor, change its colours or turn the
//! direction of its text: see [`clean`].

use std::borrow::Cow;
use std::fmt::Write as _;
use std::io::{self, BufWriter, IsTerminal, Stdout, Write};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::Value;
use serde_json::ser::{CompactFormatter, Formatter, PrettyFormatter};

use crate::failure::Failure;

/// How the output is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Format {
    // For people.
    Table,
    // For scripts.
    Json,
}

/// The standard output.
pub(crate) struct Out {
    format: Format,
    stdout: BufWriter<Stdout>,
}

impl Out {
    pub(crate) fn new(format: Format) -> Self {
        Self { format, stdout: BufWriter::new(io::stdout()) }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// A line, made harmless.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        writeln!(self.stdout, "{}", clean(text.as_ref()))?;
        Ok(())
    }

    /// A table.
    pub(crate) fn table(&mut self, table: &Table) -> Result<(), Failure> {
        self.stdout.write_all(table.render().as_bytes())?;
        Ok(())
    }

    /// The JSON value that is the whole output.
    pub(crate) fn json(&mut self, value: &Value) -> Result<(), Failure> {
        let formatter = Careful(PrettyFormatter::new());
        let mut serializer = serde_json::Serializer::with_formatter(&mut self.stdout, formatter);
        serde::Serialize::serialize(value, &mut serializer).map_err(io::Error::from)?;
        writeln!(self.stdout)?;
        Ok(())
    }

    /// One of many JSON values, on a line of its own.
    pub(crate) fn json_line(&mut self, value: &Value) -> Result<(), Failure> {
        writeln!(self.stdout, "{}", compact(value))?;
        Ok(())
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.stdout.flush()?)
    }
}

/// Something that people should know and scripts need not.
pub(crate) fn note(text: impl AsRef<str>) {
    // Nobody can be told that nobody can be told.
    let _ = writeln!(io::stderr(), "alluvium: {}", clean(text.as_ref()));
}

/// A value as JSON on one line.
pub(crate) fn compact(value: &Value) -> String {
    let mut bytes = Vec::new();
    let formatter = Careful(CompactFormatter);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    // Writing into memory cannot fail.
    let _ = serde::Serialize::serialize(value, &mut serializer);
    String::from_utf8(bytes).unwrap_or_default()
}

/// JSON in which no string holds anything that a terminal obeys.
struct Careful<F>(F);

impl<F: Formatter> Formatter for Careful<F> {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let mut from = 0;
        for (at, c) in fragment.char_indices().filter(|(_, c)| is_harmful(*c)) {
            writer.write_all(&fragment.as_bytes()[from..at])?;
            let mut units = [0; 2];
            for unit in c.encode_utf16(&mut units) {
                write!(writer, "\\u{unit:04x}")?;
            }
            from = at + c.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[from..])
    }

    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_array(writer)
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array(writer)
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_array_value(w, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_array_value(writer)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object(writer)
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object(writer)
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        self.0.begin_object_key(w, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.begin_object_value(writer)
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.0.end_object_value(writer)
    }
}

/// A text in which everything that a terminal would obey is written out: control
/// characters (those of eight bits, too), and marks that turn the direction of text.
pub(crate) fn clean(text: &str) -> Cow<'_, str> {
    if !text.chars().any(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        if is_harmful(c) { out.extend(c.escape_default()) } else { out.push(c) }
    }
    Cow::Owned(out)
}

fn is_harmful(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{61c}' | '\u{feff}')
}

/// Cuts a text to so many characters.
pub(crate) fn cut(text: &str, most: usize) -> Cow<'_, str> {
    match text.char_indices().nth(most) {
        None => Cow::Borrowed(text),
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
    }
}

/// On which side of its column a cell stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Left,
    Right,
}

/// Cells in columns. Numbers stand to the right.
pub(crate) struct Table {
    columns: Vec<(String, Side)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// With these columns; those whose names begin with `>` hold numbers.
    pub(crate) fn new(columns: &[&str]) -> Self {
        let column = |name: &&str| match name.strip_prefix('>') {
            Some(name) => (name.to_owned(), Side::Right),
            None => ((*name).to_owned(), Side::Left),
        };
        Self { columns: columns.iter().map(column).collect(), rows: Vec::new() }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        let cells = cells.into_iter().map(|cell| clean(&cell).into_owned());
        self.rows.push(cells.collect());
    }

    fn render(&self) -> String {
        let width = |text: &str| text.chars().count();
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, (name, _))| {
                let cells = self.rows.iter().filter_map(|row| row.get(at));
                cells.map(|cell| width(cell)).max().unwrap_or(0).max(width(name))
            })
            .collect();
        let mut out = String::new();
        let mut line = |cells: &mut dyn Iterator<Item = &str>| {
            let mut text = String::new();
            for ((cell, (_, side)), wide) in cells.zip(&self.columns).zip(&widths) {
                let gap = " ".repeat(wide - width(cell));
                let _ = match side {
                    Side::Left => write!(text, "  {cell}{gap}"),
                    Side::Right => write!(text, "  {gap}{cell}"),
                };
            }
            out.push_str(text.trim_end());
            out.push('\n');
        };
        line(&mut self.columns.iter().map(|(name, _)| name.as_str()));
        for row in &self.rows {
            line(&mut row.iter().map(String::as_str));
        }
        out
    }
}

/// 1.5 MiB.
pub(crate) fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    match unit {
        "B" => format!("{bytes} B"),
        _ if value < 9.95 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

/// 1,234,567.
pub(crate) fn count(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// 1 file, 2 files.
pub(crate) fn many(number: u64, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{} {what}s", count(number)),
    }
}

/// A length of time.
pub(crate) fn duration_ms(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{:.1} s", ms as f64 / 1e3),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        3_600_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// A length of time.
pub(crate) fn duration_ns(ns: u64) -> String {
    match ns {
        0..1_000_000 => format!("{} us", ns.div_ceil(1_000)),
        1_000_000..10_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => duration_ms(ns / 1_000_000),
    }
}

/// How long ago something was.
pub(crate) fn age(unix_ms: u64, now_unix_ms: u64) -> String {
    match now_unix_ms.checked_sub(unix_ms) {
        Some(ms) => duration_ms(ms),
        None => "in the future".to_owned(),
    }
}

/// 2026-01-31 12:00:00, in UTC.
pub(crate) fn time(unix_ms: u64) -> String {
    i64::try_from(unix_ms).map_or_else(|_| unix_ms.to_string(), time_signed)
}

/// As [`time`], of one that may be before 1970.
pub(crate) fn time_signed(unix_ms: i64) -> String {
    let seconds = unix_ms.div_euclid(1_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Years that begin in March, in eras of 400 years.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_of_year = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_of_year + 2) / 5 + 1;
    let month = if month_of_year < 10 { month_of_year + 3 } else { month_of_year - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    if !(0..=9999).contains(&year) {
        return format!("{unix_ms} ms");
    }
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// Progress on the standard error output, if that is a terminal.
pub(crate) fn progress(total: Option<u64>, what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(
        total,
        match io::stderr().is_terminal() {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        },
    );
    let template = match total {
        Some(_) => "{msg} {bar:30} {bytes}/{total_bytes} {bytes_per_sec}",
        None => "{msg} {pos}",
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_message(what);
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_a_terminal_obeys_is_written() {
        assert_eq!(
            clean("grün\u{1b}[31m\r\u{9b}2J\u{202e}x"),
            "grün\\u{1b}[31m\\r\\u{9b}2J\\u{202e}x"
        );
        let value = Value::from("a\u{1b}[0m\u{7f}\u{9b}\u{2066}\"ü");
        let text = compact(&value);
        assert_eq!(text, r#""a\u001b[0m\u007f\u009b\u2066\"ü""#);
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
    }

    #[test]
    fn times_and_sizes_are_as_people_write_them() {
        assert_eq!(time(0), "1970-01-01 00:00:00");
        assert_eq!(time(951_782_400_000), "2000-02-29 00:00:00");
        assert_eq!(time(1_709_251_199_000), "2024-02-29 23:59:59");
        assert_eq!(time_signed(-1), "1969-12-31 23:59:59");
        assert_eq!(time(u64::MAX), u64::MAX.to_string());
        assert_eq!(time_signed(i64::MAX), format!("{} ms", i64::MAX));
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(u64::MAX), "16 EiB");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(count(0), "0");
    }
}
