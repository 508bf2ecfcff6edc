//! Reads flights: CSV, plain or gzipped, one compact [`Flight`] at a time.
//!
//! Memory is constant, whatever the size of the file. A line that cannot be
//! read is an error with the file, the line, what was expected and what was
//! found; no line is ever skipped or guessed.

use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};

use alluvium::base::{Error, Result};
use flate2::bufread::MultiGzDecoder;
use serde::{Deserialize, Serialize};

use super::text::Text;

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZIP_MAGIC: &[u8] = b"PK\x03\x04";

/// Bytes read from the file, and from the decompressor, at a time.
pub(crate) const BUFFER_BYTES: usize = 128 << 10;

/// One flight, as much of it as the job needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Flight {
    pub(crate) date: Date,
    pub(crate) carrier: Code,
    /// The aircraft, where it is known.
    pub(crate) tailnum: Option<Code>,
    pub(crate) origin: Code,
    pub(crate) dest: Code,
    /// Minute of its day at which it was to leave, by the timetable.
    pub(crate) scheduled_minute: u16,
    /// Minute of its day at which it left, unless it was cancelled.
    pub(crate) departed_minute: Option<u16>,
    pub(crate) outcome: Outcome,
}

/// What became of a flight: all that an aggregate adds up.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Outcome {
    /// It never departed. Then both delays are `None`.
    pub(crate) cancelled: bool,
    /// Minutes; negative if early.
    pub(crate) departure_delay: Option<i16>,
    /// Minutes; negative if early.
    pub(crate) arrival_delay: Option<i16>,
    /// Distance in miles.
    pub(crate) miles: u16,
}

/// A day of the calendar.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
pub(crate) struct Date {
    pub(crate) year: u16,
    pub(crate) month: u8,
    pub(crate) day: u8,
}

/// A short name of capital letters and digits: a carrier, an airport, an
/// aircraft.
pub(crate) type Code = Text<11>;

/// The name that a field holds, if it holds one.
fn code_of(field: &[u8]) -> Option<Code> {
    let is_name = !field.is_empty() && field.iter().all(u8::is_ascii_alphanumeric);
    std::str::from_utf8(field).ok().filter(|_| is_name).and_then(Code::of)
}

/// Where the columns that we read stand in this file.
#[derive(Clone, Copy)]
struct Columns {
    year: usize,
    month: usize,
    day: usize,
    dep_time: usize,
    sched_dep_time: usize,
    dep_delay: usize,
    arr_delay: usize,
    carrier: usize,
    tailnum: usize,
    origin: usize,
    dest: usize,
    distance: usize,
}

/// Reads the flights of one file in order.
pub(crate) struct FlightReader {
    path: PathBuf,
    csv: csv::Reader<Box<dyn Read + Send>>,
    columns: Columns,
    row: csv::ByteRecord,
}

impl FlightReader {
    /// Opens the file, decides by its first bytes how to read it, and checks
    /// its header.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let mut file = BufReader::with_capacity(BUFFER_BYTES, open_file(path)?);
        let start = file.fill_buf().map_err(|e| unreadable(path, e))?;
        let bytes: Box<dyn Read + Send> = if start.starts_with(GZIP_MAGIC) {
            Box::new(MultiGzDecoder::new(file))
        } else if start.starts_with(ZIP_MAGIC) || start.contains(&0) {
            let found = if start.starts_with(ZIP_MAGIC) { "a zip archive" } else { "binary data" };
            return Err(Error::invalid("the input is neither CSV nor gzip")
                .at(path.display())
                .expected("CSV text, or CSV text compressed with gzip")
                .found(found)
                .remedy("unpack it, then give the CSV file itself with --input"));
        } else {
            Box::new(file)
        };
        let mut csv = csv::ReaderBuilder::new()
            .buffer_capacity(BUFFER_BYTES)
            .has_headers(true)
            .from_reader(bytes);
        let header = csv.byte_headers().map_err(|e| bad_csv(path, 1, e))?;
        let columns = Columns::find(path, header)?;
        Ok(Self { path: path.to_owned(), csv, columns, row: csv::ByteRecord::new() })
    }

    /// The next flight, or `None` at the end of the file.
    pub(crate) fn next(&mut self) -> Result<Option<Flight>> {
        if !self.read_row()? {
            return Ok(None);
        }
        let line = self.row.position().map_or(0, csv::Position::line);
        Row { path: &self.path, line, fields: &self.row }.flight(&self.columns).map(Some)
    }

    fn read_row(&mut self) -> Result<bool> {
        // Where a failure is reported if it comes without a place of its own.
        let line = self.csv.position().line();
        self.csv.read_byte_record(&mut self.row).map_err(|e| bad_csv(&self.path, line, e))
    }
}

impl Columns {
    fn find(path: &Path, header: &csv::ByteRecord) -> Result<Self> {
        let column = |name: &str| {
            header.iter().position(|field| field == name.as_bytes()).ok_or_else(|| {
                let found: Vec<String> =
                    header.iter().map(|field| field.escape_ascii().to_string()).collect();
                let found = shorten(&found.join(","), 200);
                Error::invalid("a column is missing from the input")
                    .at(format_args!("{}:1", path.display()))
                    .expected(format_args!("a header line with a column `{name}`"))
                    .found(format_args!("`{found}`"))
                    .remedy("give a CSV file with the columns of nycflights13 (see DATA.md)")
            })
        };
        Ok(Self {
            year: column("year")?,
            month: column("month")?,
            day: column("day")?,
            dep_time: column("dep_time")?,
            sched_dep_time: column("sched_dep_time")?,
            dep_delay: column("dep_delay")?,
            arr_delay: column("arr_delay")?,
            carrier: column("carrier")?,
            tailnum: column("tailnum")?,
            origin: column("origin")?,
            dest: column("dest")?,
            distance: column("distance")?,
        })
    }
}

/// One line of the file while it is being understood.
struct Row<'a> {
    path: &'a Path,
    line: u64,
    fields: &'a csv::ByteRecord,
}

impl Row<'_> {
    fn flight(&self, at: &Columns) -> Result<Flight> {
        let departed_minute = match self.present(at.dep_time) {
            None => None,
            Some(_) => Some(self.minute_of_day(at.dep_time, "dep_time")?),
        };
        let cancelled = departed_minute.is_none();
        let delay = |index, name| match self.present(index) {
            Some(_) if cancelled => Err(self.wrong(
                index,
                name,
                "nothing, since a flight without dep_time was cancelled",
            )),
            Some(_) => self.number::<i16>(index, name, i16::MIN..=i16::MAX).map(Some),
            None => Ok(None),
        };
        Ok(Flight {
            date: Date {
                year: self.number(at.year, "year", 1..=9999)?,
                month: self.number(at.month, "month", 1..=12)?,
                day: self.number(at.day, "day", 1..=31)?,
            },
            carrier: self.code(at.carrier, "carrier")?,
            tailnum: match self.present(at.tailnum) {
                Some(_) => Some(self.code(at.tailnum, "tailnum")?),
                None => None,
            },
            origin: self.code(at.origin, "origin")?,
            dest: self.code(at.dest, "dest")?,
            scheduled_minute: self.minute_of_day(at.sched_dep_time, "sched_dep_time")?,
            departed_minute,
            outcome: Outcome {
                cancelled,
                departure_delay: delay(at.dep_delay, "dep_delay")?,
                arrival_delay: delay(at.arr_delay, "arr_delay")?,
                miles: self.number(at.distance, "distance", 0..=u16::MAX)?,
            },
        })
    }

    /// The field, unless it is empty or `NA`.
    fn present(&self, index: usize) -> Option<&[u8]> {
        self.fields.get(index).filter(|field| !field.is_empty() && *field != b"NA")
    }

    fn number<N>(&self, index: usize, name: &str, range: std::ops::RangeInclusive<N>) -> Result<N>
    where
        N: TryFrom<i64> + PartialOrd + fmt::Display,
    {
        self.present(index)
            .and_then(parse_i64)
            .and_then(|number| N::try_from(number).ok())
            .filter(|number| range.contains(number))
            .ok_or_else(|| {
                let (low, high) = (range.start(), range.end());
                self.wrong(index, name, format_args!("a whole number from {low} to {high}"))
            })
    }

    /// A time of day as `HMM` or `HHMM`; 2400 is the midnight at its end.
    fn minute_of_day(&self, index: usize, name: &str) -> Result<u16> {
        let time = self.number::<u16>(index, name, 0..=2400)?;
        match time % 100 {
            minute @ 0..60 => Ok(time / 100 * 60 + minute),
            _ => Err(self.wrong(index, name, "a time of day as HHMM")),
        }
    }

    fn code(&self, index: usize, name: &str) -> Result<Code> {
        self.present(index).and_then(code_of).ok_or_else(|| {
            let max = Code::MAX_BYTES;
            self.wrong(index, name, format_args!("1 to {max} letters and digits"))
        })
    }

    #[cold]
    fn wrong(&self, index: usize, name: &str, expected: impl fmt::Display) -> Error {
        let field = self.fields.get(index).unwrap_or_default();
        let found = match field {
            b"" => "nothing".to_owned(),
            _ => format!("`{}`", shorten(&field.escape_ascii().to_string(), 60)),
        };
        Error::invalid(format_args!("cannot read the field `{name}` of a flight"))
            .at(format_args!("{}:{}", self.path.display(), self.line))
            .expected(expected)
            .found(found)
            .remedy("correct or remove that line of the input")
    }
}

pub(crate) fn open_file(path: &Path) -> Result<File> {
    let file = File::open(path).map_err(|e| unreadable(path, e))?;
    let kind = file.metadata().map_err(|e| unreadable(path, e))?.file_type();
    if !kind.is_file() {
        return Err(Error::invalid("the input is not a file")
            .at(path.display())
            .expected("a regular file, since it is read more than once")
            .found(if kind.is_dir() { "a directory" } else { "a pipe or device" })
            .remedy("give the file itself with --input"));
    }
    Ok(file)
}

pub(crate) fn unreadable(path: &Path, error: io::Error) -> Error {
    Error::io("cannot read the input", error)
        .at(path.display())
        .remedy("check the path given with --input and its permissions")
}

fn bad_csv(path: &Path, line: u64, error: csv::Error) -> Error {
    let at_line = |line| format!("{}:{line}", path.display());
    match error.into_kind() {
        csv::ErrorKind::UnequalLengths { pos, expected_len, len } => {
            Error::invalid("a line of the input has the wrong number of fields")
                .at(at_line(pos.map_or(line, |pos| pos.line())))
                .expected(format_args!("{expected_len}, as in the header"))
                .found(len)
                .remedy("correct or remove that line of the input")
        }
        csv::ErrorKind::Io(e) => Error::io("cannot read the input to its end", e)
            .at(format_args!("near {}", at_line(line)))
            .remedy("the file may be cut short or damaged; fetch it again"),
        other => Error::invalid("cannot read a line of the input")
            .at(at_line(line))
            .found(format_args!("{other:?}"))
            .remedy("correct or remove that line of the input"),
    }
}

/// `[-]digits`, nothing else.
fn parse_i64(field: &[u8]) -> Option<i64> {
    let (negative, digits) = match field.split_first()? {
        (b'-', rest) => (true, rest),
        _ => (false, field),
    };
    // Nine digits cannot overflow, and no field needs as many.
    if digits.is_empty() || digits.len() > 9 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let value = digits.iter().fold(0, |value, digit| value * 10 + i64::from(digit - b'0'));
    Some(if negative { -value } else { value })
}

fn shorten(text: &str, max_chars: usize) -> String {
    if text.chars().count() <= max_chars {
        return text.to_owned();
    }
    text.chars().take(max_chars).chain("...".chars()).collect()
}
