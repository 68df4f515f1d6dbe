//! The private certificate authority, and TLS made of its certificates.
//!
//! Who somebody is stands in their certificate as a URI (see [`ebbtide_proto::identity`]) and nowhere else: what a
//! message or a signing request says of itself is never believed. Here is what makes certificates ([`authority`]),
//! reads them ([`certificate`]), keeps them in files ([`files`]) and turns them into TLS ([`tls`]).
//! Who may do what is decided elsewhere.

pub mod authority;
pub mod certificate;
pub mod files;
pub mod tls;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use authority::{Authority, Issued, Signed};
pub use certificate::{Certificate, fingerprint, identity_of};

use ebbtide_proto::IdError;

/// Why something can't be done with certificates.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    /// A file can't be read.
    #[error("can't read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file or folder can't be written.
    #[error("can't write {}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file that is there already and stays as it is.
    #[error("{} is there already and was left as it is; --force overwrites it", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// A text or file without what it is there for.
    #[error("{place} holds no {wanted} in PEM form (\"-----BEGIN ...\")")]
    Empty {
        /// Where it was looked for.
        place: String,
        /// What was looked for.
        wanted: &'static str,
    },
    /// Bytes that can't be used as what they should be.
    #[error("{place} can't be used as {wanted}: {why}")]
    Unusable {
        /// The file or message.
        place: String,
        /// What it should be.
        wanted: &'static str,
        /// Why not.
        why: String,
    },
    /// A certificate that is nobody's here.
    #[error("the certificate says nothing of the form ebbtide://…: it is not from `ebbtide pki` or a join token")]
    NoIdentity,
    /// A certificate that claims to be several.
    #[error("the certificate holds {0} ebbtide:// identities, only one is allowed")]
    SeveralIdentities(usize),
    /// A certificate whose identity is malformed.
    #[error("the certificate's identity: {0}")]
    Identity(#[from] IdError),
    /// A name that no server can have.
    #[error("{0:?} is neither a DNS name nor an IP address")]
    Name(String),
    /// A server's certificate without a name to reach it by.
    #[error("a certificate for the fleet daemon needs at least one DNS name or IP address")]
    NoName,
    /// The authority has ended or would end before the certificate begins.
    #[error("the authority's own certificate has ended; make a new one: ebbtide pki init --force")]
    AuthorityEnded,
    /// A validity that can't be written down.
    #[error("{0} days is no validity: 1 to 3652 are allowed")]
    Days(u32),
    /// What a library said.
    #[error("{what}: {why}")]
    Crypto {
        /// What was tried.
        what: &'static str,
        /// What was said.
        why: String,
    },
}

/// How long certificates are good for unless somebody says otherwise, in days.
pub mod days {
    /// An authority: ten years.
    pub const AUTHORITY: u32 = 3652;
    /// A node's agent.
    pub const NODE: u32 = 365;
    /// A person or program.
    pub const OPERATOR: u32 = 90;
    /// The fleet daemon.
    pub const FLEET: u32 = 365;
}
