//! stub
#![allow(missing_docs, unused)]
use ebbtide_proto::{frame::{Decoded, Decoder}, NodeId, v1};
use std::path::Path;
#[derive(Debug, thiserror::Error)]
pub enum StoreError { #[error("x {0}")] Output(std::io::Error), #[error("y")] Other }
impl From<std::io::Error> for StoreError { fn from(e: std::io::Error) -> Self { Self::Output(e) } }
#[derive(Default)] pub struct Options {}
#[derive(Clone)] pub struct Store;
pub struct Stream;
#[derive(Debug)] pub struct Record(u64);
impl Record { pub fn seq(&self) -> u64 { self.0 } }
impl Stream { pub fn acked(&self) -> u64 { 0 } pub fn record(&mut self, d: &Decoder, x: &Decoded) -> Record { Record(x.seq) } }
pub struct Committed { pub duplicates: u64 }
pub struct Sealed { pub nodes: usize }
#[derive(Default)] pub struct Stats { pub bytes: u64, pub unsealed_frames: u64, pub oldest_ms: u64 }
#[derive(serde::Serialize)] pub struct Report;
impl Report { pub fn is_clean(&self) -> bool { true } }
impl std::fmt::Display for Report { fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result { Ok(()) } }
impl Store {
    pub fn open(d: &Path, o: Options) -> Result<Self, StoreError> { Ok(Self) }
    pub fn stream(&self, n: &NodeId, s: u64) -> Result<Stream, StoreError> { Ok(Stream) }
    pub fn commit(&self, r: Vec<Record>) -> Result<Committed, StoreError> { Ok(Committed { duplicates: 0 }) }
    pub fn seal(&self, now: u64, n: usize) -> Result<Sealed, StoreError> { Ok(Sealed { nodes: 0 }) }
    pub fn seal_all(&self, now: u64) -> Result<Sealed, StoreError> { Ok(Sealed { nodes: 0 }) }
    pub fn retain(&self, now: u64, r: &crate::config::Retention) -> Result<(), StoreError> { Ok(()) }
    pub fn nodes(&self) -> Vec<NodeId> { vec![] }
    pub fn energy(&self, q: &v1::QueryEnergyRequest, now: u64) -> Result<v1::QueryEnergyResponse, crate::query::QueryError> { Ok(Default::default()) }
    pub fn stats(&self) -> Stats { Stats::default() }
}
pub fn verify(d: &Path) -> Result<Report, StoreError> { Ok(Report) }
pub fn backup(d: &Path, t: &Path) -> Result<Report, StoreError> { Ok(Report) }
pub fn export(d: &Path, a: u64, b: u64, n: Option<&str>, o: &mut impl std::io::Write) -> Result<u64, StoreError> { Ok(0) }
