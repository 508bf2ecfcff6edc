//! What is learnt of a file of flights before it is read as a stream: which one
//! it is, how many flights it has, and of which days.

use std::io::{self, Read};
use std::path::Path;

use alluvium::base::Result;
use alluvium::base::checksum::{ContentHash, ContentHasher};

use super::input::{BUFFER_BYTES, Date, FlightReader, open_file, unreadable};
use super::time::{self, EventTime};

/// What a file is, told by its size and content: a job restored from a
/// checkpoint must go on with the very input that it began with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct InputIdentity {
    pub(crate) file_bytes: u64,
    pub(crate) hash: ContentHash,
}

impl InputIdentity {
    /// Reads the whole file once, as it is stored.
    pub(crate) fn of_file(path: &Path) -> Result<Self> {
        let mut file = open_file(path)?;
        let mut hasher = ContentHasher::new();
        let mut buffer = vec![0; BUFFER_BYTES];
        let mut file_bytes = 0;
        loop {
            match file.read(&mut buffer) {
                Ok(0) => {
                    return Ok(Self { file_bytes, hash: hasher.finish() });
                }
                Ok(n) => {
                    hasher.update(&buffer[..n]);
                    file_bytes += n as u64;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(unreadable(path, e)),
            }
        }
    }
}

/// What there is in a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Extent {
    pub(crate) flights: u64,
    /// The first and the last day of any flight; `None` if there are none.
    pub(crate) days: Option<(Date, Date)>,
    /// The latest event of any flight.
    pub(crate) latest: EventTime,
}

impl Extent {
    /// Reads all of a file, which checks every line of it.
    pub(crate) fn of_file(path: &Path) -> Result<Self> {
        let mut reader = FlightReader::open(path)?;
        let mut extent = Self { flights: 0, days: None, latest: EventTime::START };
        while let Some(flight) = reader.next()? {
            extent.flights += 1;
            let (first, last) = extent.days.unwrap_or((flight.date, flight.date));
            extent.days = Some((first.min(flight.date), last.max(flight.date)));
            extent.latest = extent.latest.max(time::scheduled(&flight));
        }
        Ok(extent)
    }
}
