//! Files outside a store: canonical savepoints, and what is needed to make and to read
//! them.

#![allow(
    clippy::disallowed_methods,
    reason = "files that a person names, pipes among them, are opened as the system does it"
)]

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use alluvium::env::{Env, RealEnv};
use alluvium::{Error, Result};

/// Bytes that are read and written at a time.
const BUFFER_BYTES: usize = 256 << 10;

/// What stands for the standard input, or output.
pub(crate) const STANDARD: &str = "-";

/// Opens a file, a pipe, or the standard input, to be read from its beginning.
pub(crate) fn open_stream(text: &str, path: &Path) -> Result<Box<dyn BufRead>> {
    if text == STANDARD {
        return Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, io::stdin())));
    }
    if crate::readonly::is_dir(path) {
        return Err(Error::invalid("this is a directory, and no canonical savepoint")
            .at(path.display())
            .expected("a file, or - for the standard input")
            .remedy("leave --canonical out to import an exported folder"));
    }
    match File::open(path) {
        Ok(file) => Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, file))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Err(Error::invalid("there is no such file").at(path.display()))
        }
        Err(error) => Err(Error::io("a file could not be opened", error).at(path.display())),
    }
}

/// A directory for temporary files.
#[derive(Debug)]
pub(crate) struct Scratch {
    dir: PathBuf,
    is_ours: bool,
}

impl Scratch {
    /// The directory that was asked for; or a new one in `parent`, which goes with this
    /// value.
    pub(crate) fn open(asked: Option<&str>, parent: &Path) -> Result<Self> {
        if let Some(asked) = asked {
            let dir = PathBuf::from(asked);
            fs::create_dir_all(&dir).map_err(|error| {
                Error::io("the directory for temporary files could not be made", error)
                    .at(dir.display())
            })?;
            return Ok(Self { dir, is_ours: false });
        }
        let dir = parent.join(format!(".alluvium-{:016x}", RealEnv::new().random_u64()));
        // Others may be let into the parent, and this is state.
        let created = fs::DirBuilder::new().mode(0o700).create(&dir);
        created.map_err(|error| {
            Error::io("a directory for temporary files could not be made", error)
                .at(dir.display())
                .remedy("name one by --work")
        })?;
        Ok(Self { dir, is_ours: true })
    }

    /// As [`open`](Self::open), with the system's directory for temporary files.
    pub(crate) fn of_system(asked: Option<&str>) -> Result<Self> {
        Self::open(asked, &std::env::temp_dir())
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.is_ours
            && let Err(error) = fs::remove_dir_all(&self.dir)
        {
            crate::out::note(format!("{} is left over: {error}", self.dir.display()));
        }
    }
}

/// A file that is there when it is finished, and not before.
#[derive(Debug)]
pub(crate) struct NewFile {
    path: PathBuf,
    part: PathBuf,
    out: BufWriter<File>,
    is_finished: bool,
}

impl NewFile {
    /// A file that does not exist yet.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        if fs::symlink_metadata(path).is_ok() {
            return Err(Error::invalid("the file exists already")
                .at(path.display())
                .remedy("name another one, or remove it first"));
        }
        let mut part = path.as_os_str().to_owned();
        part.push(format!(".{:016x}.part", RealEnv::new().random_u64()));
        let part = PathBuf::from(part);
        let file = File::create_new(&part)
            .map_err(|error| Error::io("a file could not be created", error).at(part.display()))?;
        let out = BufWriter::with_capacity(BUFFER_BYTES, file);
        Ok(Self { path: path.to_owned(), part, out, is_finished: false })
    }

    /// Makes it durable, and gives it its name.
    pub(crate) fn finish(mut self) -> Result<()> {
        let failed =
            |error| Error::io("a file could not be finished", error).at(self.path.display());
        self.out.flush().map_err(failed)?;
        self.out.get_ref().sync_all().map_err(failed)?;
        fs::rename(&self.part, &self.path).map_err(failed)?;
        self.is_finished = true;
        RealEnv::new().fs().sync_dir(&parent_of(&self.path)).map_err(failed)
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if !self.is_finished
            && let Err(error) = fs::remove_file(&self.part)
        {
            crate::out::note(format!("{} is left over: {error}", self.part.display()));
        }
    }
}

/// The directory that a file is in.
pub(crate) fn parent_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.to_owned(),
        _ => PathBuf::from("."),
    }
}
