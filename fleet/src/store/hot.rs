//! `hot.db`: frames that are not in days yet, and what has to outlive them.
//!
//! Frames are only ever appended, under a number of the store's own, so that a commit writes pages once and no index
//! is spread over the file; they are deleted from the front. What a stream has safe is its row or its newest frame.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ebbtide_proto::NodeId;
use rusqlite::{Connection, OptionalExtension as _, params};

use super::codec::{MAX_SECTION, Reader, Zip};
use super::error::{InFile as _, OnFile as _, StoreError};
use super::names::{Named, Names, put_chunk, read_chunk};
use super::node::{FrameRef, Node, Spool};
use super::samples::{Gatherer, Samples};
use super::sql::{Bits, open_for_writing};
use super::tail::Tail;
use super::{Nodes, lock};

/// The version of the file, and the most that this program reads.
const VERSION: i64 = 1;

const SCHEMA: &str = "
CREATE TABLE node (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    next_series INTEGER NOT NULL,  -- the number that the next new series gets
    sealed INTEGER NOT NULL,       -- frames up to this number are in days
    tail BLOB NOT NULL             -- the last sample of each series up to there
) STRICT;
CREATE TABLE stream (
    id INTEGER PRIMARY KEY,
    node INTEGER NOT NULL,
    spool INTEGER NOT NULL,
    acked INTEGER NOT NULL,        -- all frames up to this one came or are lost; frames in `frame` may be later
    lost INTEGER NOT NULL,         -- frames that never came
    UNIQUE (node, spool)
) STRICT;
CREATE TABLE names (
    node INTEGER NOT NULL,
    first INTEGER NOT NULL,        -- the lowest number in the chunk
    chunk BLOB NOT NULL,           -- one compressed section
    PRIMARY KEY (node, first)
) STRICT, WITHOUT ROWID;
CREATE TABLE frame (
    id INTEGER PRIMARY KEY,
    stream INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms INTEGER NOT NULL
) STRICT;
CREATE TABLE body (
    id INTEGER PRIMARY KEY,        -- as in `frame`, which can be read without these
    data BLOB NOT NULL
) STRICT;
CREATE TABLE fact (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
";

/// The one writer of `hot.db`.
#[derive(Debug)]
pub(super) struct Hot {
    pub(super) path: PathBuf,
    pub(super) db: Connection,
    /// The number of the next frame.
    pub(super) next_frame: u64,
    /// The number of the next stream.
    pub(super) next_stream: u32,
    /// The number of the oldest frame that may still be there.
    pub(super) first_frame: u64,
    /// Tells this file's numbers from those of one that was here before.
    pub(super) epoch: i64,
}

impl Hot {
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        let db = open_for_writing(path, "PRAGMA auto_vacuum = INCREMENTAL", SCHEMA, VERSION)?;
        let epoch = fact(&db, "epoch").on("read", path)?;
        let epoch = match epoch {
            Some(epoch) => epoch,
            None => {
                let made: i64 = db
                    .query_row("INSERT INTO fact VALUES ('epoch', random()) RETURNING value", [], |row| row.get(0))
                    .on("set up", path)?;
                made
            }
        };
        Ok(Self { path: path.to_owned(), db, next_frame: 1, next_stream: 1, first_frame: 1, epoch })
    }

    /// All nodes, streams and frames, without their bodies.
    pub(super) fn load(&mut self) -> Result<Nodes, StoreError> {
        let path = self.path.clone();
        let (nodes, next_frame, next_stream) = load(&self.db).on("read", &path)?;
        self.next_frame = next_frame;
        self.next_stream = next_stream;
        let first = self.db.query_row("SELECT min(id) FROM frame", [], |row| row.get::<_, Option<Bits>>(0));
        self.first_frame = first.on("read", &path)?.map_or(next_frame, |first| first.0);
        Ok(nodes)
    }
}

fn load(db: &Connection) -> rusqlite::Result<(Nodes, u64, u32)> {
    let mut nodes = Nodes { next: 1, ..Nodes::default() };
    let (mut next_frame, mut next_stream) = (1, 1);
    let mut by_id = HashMap::new();
    let mut query = db.prepare("SELECT id, name, next_series, sealed FROM node")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (id, name, next_series, sealed): (u32, String, u32, Bits) =
            (row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?);
        let Ok(name) = NodeId::new(&name) else { continue };
        let node = Arc::new(Node::saved(id, name.clone(), next_series, sealed.0));
        nodes.next = nodes.next.max(id.saturating_add(1));
        next_frame = next_frame.max(sealed.0 + 1);
        by_id.insert(id, Arc::clone(&node));
        nodes.by_name.insert(name, node);
    }
    let mut streams = HashMap::new();
    let mut query = db.prepare("SELECT id, node, spool, acked, lost FROM stream")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (id, spool, acked, lost): (u32, Bits, Bits, Bits) = (row.get(0)?, row.get(2)?, row.get(3)?, row.get(4)?);
        next_stream = next_stream.max(id.saturating_add(1));
        let Some(node) = by_id.get(&row.get(1)?) else { continue };
        let mut state = lock(&node.state);
        streams.insert(id, (Arc::clone(node), state.spools.len()));
        state.spools.push(Spool { stream: id, id: spool.0, acked: acked.0, lost: lost.0, saved: true });
    }
    let mut query = db.prepare("SELECT id, stream, seq, first_ms, last_ms FROM frame ORDER BY id")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (id, seq, first_ms, last_ms): (Bits, Bits, Bits, Bits) =
            (row.get(0)?, row.get(2)?, row.get(3)?, row.get(4)?);
        let stream = row.get(1)?;
        next_frame = next_frame.max(id.0 + 1);
        let Some((node, spool)) = streams.get(&stream) else { continue };
        let mut state = lock(&node.state);
        if let Some(spool) = state.spools.get_mut(*spool) {
            spool.acked = spool.acked.max(seq.0);
        }
        if id.0 > state.sealed {
            state.frames.push_back(FrameRef::new(id.0, stream, first_ms.0, last_ms.0));
        }
    }
    Ok((nodes, next_frame, next_stream))
}

fn fact(db: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    db.query_row("SELECT value FROM fact WHERE name = ?1", [name], |row| row.get(0)).optional()
}

/// What the numbers of a node's series stand for, as far as they are saved.
pub(super) fn names_of(db: &Connection, path: &Path, node: u32) -> Result<Names, StoreError> {
    let mut names = Names::new();
    let mut query = db.prepare_cached("SELECT chunk FROM names WHERE node = ?1 ORDER BY first").on("read", path)?;
    let mut rows = query.query([node]).on("read", path)?;
    while let Some(row) = rows.next().on("read", path)? {
        let chunk = row.get_ref(0).and_then(|chunk| Ok(chunk.as_blob()?)).on("read", path)?;
        Zip::shared(|zip| read_chunk(&zip.read_section(&mut Reader::new(chunk), MAX_SECTION)?, &mut names))
            .map_err(StoreError::Compression)?
            .within(path, || format!("names of node {node}"))?;
    }
    Ok(names)
}

/// Writes what new numbers stand for.
pub(super) fn save_names<'a>(
    db: &Connection,
    node: u32,
    next_series: u32,
    series: impl Iterator<Item = (u32, &'a Named)>,
) -> rusqlite::Result<()> {
    let mut series = series.peekable();
    let Some((first, _)) = series.peek() else { return Ok(()) };
    let first = *first;
    let mut chunk = Vec::new();
    put_chunk(series, &mut chunk);
    let chunk = section(&chunk)?;
    db.prepare_cached("INSERT OR REPLACE INTO names VALUES (?1, ?2, ?3)")?.execute(params![node, first, chunk])?;
    db.prepare_cached("UPDATE node SET next_series = ?2 WHERE id = ?1")?.execute(params![node, next_series])?;
    Ok(())
}

/// The last samples of a node that are in days.
pub(super) fn tail_of(db: &Connection, path: &Path, node: u32) -> Result<Tail, StoreError> {
    let mut query = db.prepare_cached("SELECT tail FROM node WHERE id = ?1").on("read", path)?;
    let tail: Option<Vec<u8>> = query.query_row([node], |row| row.get(0)).optional().on("read", path)?;
    Tail::read(&tail.unwrap_or_default()).within(path, || format!("last samples of node {node}"))
}

/// No further frame is read once there are so many values or moments. With the largest frame on top of them it's still
/// less than what can be held.
const ENOUGH_VALUES: usize = 4 << 20;
const ENOUGH_TICKS: usize = 1 << 20;

/// Frames put together.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    pub(super) samples: Samples,
    /// The frames: their streams and numbers, and how many moments there are up to their end.
    pub(super) frames: Vec<(u32, u64, usize)>,
}

/// Reads frames and puts them together, at least one and no more than fit. One that can't be read is left out: what it
/// told is lost, and what comes after it is not.
pub(super) fn gather(db: &Connection, path: &Path, frames: &[FrameRef]) -> Result<Gathered, StoreError> {
    let mut gatherer = Gatherer::new(frames.len());
    let mut gathered = Gathered::default();
    let sql = "SELECT stream, seq, data FROM frame JOIN body USING (id) WHERE id = ?1";
    let mut query = db.prepare_cached(sql).on("read", path)?;
    for frame in frames {
        let mut rows = query.query([Bits(frame.id)]).on("read", path)?;
        let row = rows.next().on("read", path)?.ok_or(StoreError::Misused("a frame is gone that is not in a day"))?;
        let seq: Bits = row.get(1).on("read", path)?;
        let body = row.get_ref(2).and_then(|body| Ok(body.as_blob()?)).on("read", path)?;
        if let Err(damaged) = gatherer.add(body) {
            tracing::error!(file = %path.display(), frame = frame.id, "a frame is lost: {damaged}");
        }
        gathered.frames.push((frame.stream, seq.0, gatherer.ticks()));
        if gatherer.len() > ENOUGH_VALUES || gatherer.ticks() > ENOUGH_TICKS {
            break;
        }
    }
    gathered.samples = gatherer.finish();
    Ok(gathered)
}

fn section(bytes: &[u8]) -> rusqlite::Result<Vec<u8>> {
    let mut section = Vec::new();
    let zipped = Zip::shared(|zip| zip.put_section(bytes, &mut section)).flatten();
    zipped.map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
    Ok(section)
}

/// Writes these names in place of all that a node has.
pub(super) fn replace_names(db: &Connection, node: u32, names: &Names) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM names WHERE node = ?1")?.execute([node])?;
    let Some((first, _)) = names.first_key_value() else { return Ok(()) };
    let mut chunk = Vec::new();
    put_chunk(names.iter().map(|(number, named)| (*number, named)), &mut chunk);
    let chunk = section(&chunk)?;
    db.prepare_cached("INSERT INTO names VALUES (?1, ?2, ?3)")?.execute(params![node, first, chunk])?;
    Ok(())
}

/// A frame that is not in days, as far as its row says.
pub(super) struct FrameRow {
    pub(super) node: String,
    pub(super) spool: u64,
    pub(super) seq: u64,
    pub(super) first_ms: u64,
    pub(super) last_ms: u64,
}

/// Tells of all frames that `hot.db` thinks are not in days.
pub(super) fn unsealed(
    db: &Connection,
    mut tell: impl FnMut(FrameRow) -> Result<(), StoreError>,
) -> rusqlite::Result<Result<(), StoreError>> {
    let sql = "SELECT name, spool, seq, first_ms, last_ms
               FROM frame JOIN stream ON stream.id = frame.stream JOIN node ON node.id = stream.node
               WHERE frame.id > node.sealed";
    let mut query = db.prepare(sql)?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let bits = |column| row.get::<_, Bits>(column).map(|bits| bits.0);
        let frame =
            FrameRow { node: row.get(0)?, spool: bits(1)?, seq: bits(2)?, first_ms: bits(3)?, last_ms: bits(4)? };
        if let Err(error) = tell(frame) {
            return Ok(Err(error));
        }
    }
    Ok(Ok(()))
}
