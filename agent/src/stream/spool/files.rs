//! Where segments are kept: a folder of the disk, or memory.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Named files that are appended to.
pub trait Files: Send {
    /// Names of all files, in no order.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes a file with these bytes; one of that name is replaced.
    fn create(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Adds bytes to the end of a file. After an error any part of them may be there.
    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
    /// Reads from `offset` on until `bytes` is full or the file ends; how many were read.
    fn read(&mut self, name: &str, offset: u64, bytes: &mut [u8]) -> io::Result<usize>;
    /// Cuts a file off at `len`.
    fn cut(&mut self, name: &str, len: u64) -> io::Result<()>;
    /// Returns once a file's bytes survive a power cut.
    fn sync(&mut self, name: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Makes a file with these bytes, or leaves the one of that name as it was.
    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()>;
}

/// A folder of the disk.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    /// The file that was written, and the one that was read last.
    writing: Option<(String, File)>,
    reading: Option<(String, File)>,
}

impl Folder {
    /// The folder at `path`; it is made when the first file is.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), writing: None, reading: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn writing(&mut self, name: &str) -> io::Result<&mut File> {
        if self.writing.as_ref().is_none_or(|(open, _)| open != name) {
            let file = OpenOptions::new().append(true).open(self.path.join(name))?;
            self.writing = Some((name.to_owned(), file));
        }
        self.writing.as_mut().map(|(_, file)| file).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// What only the owner may read: names of workloads are in it.
    fn fresh(&self, name: &str) -> io::Result<File> {
        std::fs::create_dir_all(&self.path)?;
        OpenOptions::new().create(true).write(true).truncate(true).mode(0o600).open(self.path.join(name))
    }
}

impl Files for Folder {
    fn list(&self) -> io::Result<Vec<String>> {
        let entries = match std::fs::read_dir(&self.path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
    }

    fn create(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.writing = None;
        let mut file = self.fresh(name)?;
        let written = file.write_all(bytes);
        if written.is_err() {
            // a file without a whole head says nothing
            drop(std::fs::remove_file(self.path.join(name)));
        }
        written
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.writing(name)?.write_all(bytes)
    }

    fn read(&mut self, name: &str, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        if self.reading.as_ref().is_none_or(|(open, _)| open != name) {
            self.reading = Some((name.to_owned(), File::open(self.path.join(name))?));
        }
        let Some((_, file)) = &self.reading else { return Ok(0) };
        let mut done = 0;
        while let Some(rest) = bytes.get_mut(done..).filter(|rest| !rest.is_empty()) {
            match file.read_at(rest, offset + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn cut(&mut self, name: &str, len: u64) -> io::Result<()> {
        OpenOptions::new().write(true).open(self.path.join(name))?.set_len(len)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        self.writing(name)?.sync_data()?;
        // the name, too
        File::open(&self.path)?.sync_all()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        for open in [&mut self.writing, &mut self.reading] {
            if open.as_ref().is_some_and(|(open, _)| open == name) {
                *open = None;
            }
        }
        std::fs::remove_file(self.path.join(name))
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let fresh = format!("{name}.new");
        self.fresh(&fresh)?.write_all(bytes)?;
        std::fs::rename(self.path.join(fresh), self.path.join(name))
    }
}

/// Files in memory.
#[derive(Clone, Debug, Default)]
pub struct Memory(pub BTreeMap<String, Vec<u8>>);

impl Memory {
    fn get(&mut self, name: &str) -> io::Result<&mut Vec<u8>> {
        self.0.get_mut(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Files for Memory {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.keys().cloned().collect())
    }

    fn create(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn append(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.get(name)?.extend_from_slice(bytes);
        Ok(())
    }

    fn read(&mut self, name: &str, offset: u64, bytes: &mut [u8]) -> io::Result<usize> {
        let file = self.get(name)?;
        let from = file.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        let n = from.len().min(bytes.len());
        if let (Some(to), Some(from)) = (bytes.get_mut(..n), from.get(..n)) {
            to.copy_from_slice(from);
        }
        Ok(n)
    }

    fn cut(&mut self, name: &str, len: u64) -> io::Result<()> {
        self.get(name)?.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        Ok(())
    }

    fn sync(&mut self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.0.remove(name).map(drop).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn replace(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.create(name, bytes)
    }
}
