//! What is known beside measurements: join tokens and who did what. One small SQLite file.

use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ebbtide_proto::{NodeId, v1};
use rusqlite::{Connection, OptionalExtension as _, params};
use rustls::crypto::SecureRandom;

/// A join token is good for at most this long, in milliseconds.
const LONGEST_MS: u64 = 30 * 86_400_000;
/// And for this long if nobody says otherwise.
const USUAL_MS: u64 = 3_600_000;
/// Tokens that wait to be used, at most.
const MOST_TOKENS: i64 = 10_000;

/// Why a token or entry can't be used or made.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    /// The file can't be used.
    #[error("the catalogue can't be used: {0}")]
    Sqlite(#[from] rusqlite::Error),
    /// The token is not what it should be; says no more than that to whoever shows it.
    #[error("the join token is {0}")]
    Token(&'static str),
    /// Too long, too many, …
    #[error("{0}")]
    Invalid(String),
    /// No randomness.
    #[error("the kernel gives no random numbers")]
    Random,
}

/// The open file.
#[derive(Clone)]
pub struct Catalogue(Arc<Mutex<Connection>>);

/// A token as it is given out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// Names it, is not secret.
    pub id: String,
    /// `id.secret`.
    pub token: String,
    /// When it ends.
    pub expires_ms: u64,
}

impl Catalogue {
    /// Opens `catalogue.db` in the folder of the store.
    ///
    /// # Errors
    /// If the file can't be used.
    pub fn open(folder: &Path) -> Result<Self, CatalogueError> {
        let db = Connection::open(folder.join("catalogue.db"))?;
        db.busy_timeout(std::time::Duration::from_secs(5))?;
        db.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;
             CREATE TABLE IF NOT EXISTS token (
                 id TEXT PRIMARY KEY, hash BLOB NOT NULL, node TEXT NOT NULL, expires_ms INTEGER NOT NULL,
                 created_by TEXT NOT NULL, used_by TEXT NOT NULL DEFAULT '', used_ms INTEGER NOT NULL DEFAULT 0) STRICT;
             CREATE TABLE IF NOT EXISTS wake (
                 node TEXT NOT NULL, at_ms INTEGER NOT NULL, who TEXT NOT NULL, proven INTEGER NOT NULL,
                 path TEXT NOT NULL, boot_ms INTEGER NOT NULL, boot_uj INTEGER, why TEXT NOT NULL,
                 PRIMARY KEY (node, at_ms)) STRICT;
             CREATE TABLE IF NOT EXISTS audit (
                 at_ms INTEGER NOT NULL, who TEXT NOT NULL, what TEXT NOT NULL) STRICT;",
        )?;
        Ok(Self(Arc::new(Mutex::new(db))))
    }

    fn db(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a join token for `node`, or for any if empty.
    ///
    /// # Errors
    /// If it were to last too long, or there are too many.
    pub fn create_token(&self, node: &str, ttl_ms: u64, by: &str, now_ms: u64) -> Result<NewToken, CatalogueError> {
        let ttl_ms = if ttl_ms == 0 { USUAL_MS } else { ttl_ms };
        if ttl_ms > LONGEST_MS {
            return Err(CatalogueError::Invalid("a join token is good for at most 30 days; ask for less".into()));
        }
        let node = match node {
            "" => String::new(),
            name => NodeId::new(name).map_err(|e| CatalogueError::Invalid(e.to_string()))?.to_string(),
        };
        let (id, secret) = (random_hex::<4>()?, random_hex::<16>()?);
        let expires_ms = now_ms.saturating_add(ttl_ms);
        let mut db = self.db();
        let change = db.transaction()?;
        let waiting: i64 = change.query_row("SELECT count(*) FROM token WHERE used_ms = 0", [], |row| row.get(0))?;
        if waiting >= MOST_TOKENS {
            return Err(CatalogueError::Invalid(format!("{MOST_TOKENS} join tokens wait to be used; revoke some")));
        }
        change.execute(
            "INSERT INTO token (id, hash, node, expires_ms, created_by) VALUES (?, ?, ?, ?, ?)",
            params![id, hash(&secret), node, sql(expires_ms), by],
        )?;
        note(
            &change,
            now_ms,
            by,
            &format!("made join token {id} for {}", if node.is_empty() { "any node" } else { &node }),
        )?;
        change.commit()?;
        Ok(NewToken { token: format!("{id}.{secret}"), id, expires_ms })
    }

    /// Uses a token up for `node`. `sign` is called if the token is good; the token stays good if it fails.
    ///
    /// # Errors
    /// [`CatalogueError::Token`] if the token is not good, whatever `sign` says otherwise.
    pub fn use_token<T>(
        &self,
        token: &str,
        node: &NodeId,
        now_ms: u64,
        sign: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, CatalogueError> {
        let mut parts = token.split('.');
        let (Some(id), Some(secret)) = (parts.next(), parts.next()) else {
            return Err(CatalogueError::Token("not of the form id.secret.fingerprint"));
        };
        let mut db = self.db();
        let change = db.transaction()?;
        type Row = (Vec<u8>, String, i64, i64);
        let row: Option<Row> = change
            .query_row("SELECT hash, node, expires_ms, used_ms FROM token WHERE id = ?", [id], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })
            .optional()?;
        let Some((wanted, only, expires_ms, used_ms)) = row else { return Err(CatalogueError::Token("unknown")) };
        // hashes of random secrets: nothing is learnt from how long the comparison takes
        if wanted != hash(secret) {
            return Err(CatalogueError::Token("unknown"));
        }
        if used_ms != 0 {
            return Err(CatalogueError::Token("used already; make another with ebbtide token create"));
        }
        if expires_ms < sql(now_ms) {
            return Err(CatalogueError::Token("expired; make another with ebbtide token create"));
        }
        if !only.is_empty() && only != node.as_str() {
            return Err(CatalogueError::Token("for another node"));
        }
        let signed = sign().map_err(CatalogueError::Invalid)?;
        change.execute(
            "UPDATE token SET used_by = ?, used_ms = ? WHERE id = ?",
            params![node.as_str(), sql(now_ms), id],
        )?;
        note(&change, now_ms, node.as_str(), &format!("joined with token {id}"))?;
        change.commit()?;
        Ok(signed)
    }

    /// All tokens, the newest last. Those that ended a month ago are forgotten.
    ///
    /// # Errors
    /// If the file can't be used.
    pub fn tokens(&self, now_ms: u64) -> Result<Vec<v1::Token>, CatalogueError> {
        let db = self.db();
        db.execute("DELETE FROM token WHERE expires_ms < ?", [sql(now_ms.saturating_sub(LONGEST_MS))])?;
        let mut rows =
            db.prepare("SELECT id, node, expires_ms, created_by, used_by, used_ms FROM token ORDER BY expires_ms, id")?;
        let rows = rows.query_map([], |row| {
            Ok(v1::Token {
                id: row.get(0)?,
                node: row.get(1)?,
                expires_ms: row.get::<_, i64>(2)?.unsigned_abs(),
                created_by: row.get(3)?,
                used_by: row.get(4)?,
                used_ms: row.get::<_, i64>(5)?.unsigned_abs(),
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// Makes a token useless. `false` if there is none.
    ///
    /// # Errors
    /// If the file can't be used.
    pub fn revoke(&self, id: &str, by: &str, now_ms: u64) -> Result<bool, CatalogueError> {
        let mut db = self.db();
        let change = db.transaction()?;
        let gone = change.execute("DELETE FROM token WHERE id = ? AND used_ms = 0", [id])? > 0;
        if gone {
            note(&change, now_ms, by, &format!("revoked join token {id}"))?;
        }
        change.commit()?;
        Ok(gone)
    }
}

impl Catalogue {
    /// Notes who did what.
    ///
    /// # Errors
    /// If the file can't be used.
    pub fn audit(&self, now_ms: u64, who: &str, what: &str) -> Result<(), CatalogueError> {
        Ok(note(&self.db(), now_ms, who, what)?)
    }

    /// Keeps how a test of a node's wake path ended.
    ///
    /// # Errors
    /// If the file can't be used.
    pub fn keep_wake(&self, wake: &v1::Wake) -> Result<(), CatalogueError> {
        self.db().execute(
            "INSERT OR REPLACE INTO wake VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            params![
                wake.node,
                sql(wake.at_ms),
                wake.by,
                wake.proven,
                wake.path,
                sql(wake.boot_ms),
                wake.boot_uj.map(sql),
                wake.why
            ],
        )?;
        Ok(())
    }

    /// How the last test of each node's wake path ended, by node.
    ///
    /// # Errors
    /// If the file can't be used.
    pub fn wakes(&self) -> Result<Vec<v1::Wake>, CatalogueError> {
        let db = self.db();
        let mut rows = db.prepare(
            "SELECT node, max(at_ms), who, proven, path, boot_ms, boot_uj, why FROM wake GROUP BY node ORDER BY node",
        )?;
        let rows = rows.query_map([], |row| {
            Ok(v1::Wake {
                node: row.get(0)?,
                at_ms: row.get::<_, i64>(1)?.unsigned_abs(),
                by: row.get(2)?,
                proven: row.get(3)?,
                path: row.get(4)?,
                boot_ms: row.get::<_, i64>(5)?.unsigned_abs(),
                boot_uj: row.get::<_, Option<i64>>(6)?.map(i64::unsigned_abs),
                why: row.get(7)?,
            })
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }
}

fn note(db: &Connection, now_ms: u64, who: &str, what: &str) -> Result<(), rusqlite::Error> {
    db.execute("INSERT INTO audit (at_ms, who, what) VALUES (?, ?, ?)", params![sql(now_ms), who, what])?;
    tracing::info!("{who} {what}");
    Ok(())
}

fn sql(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn provider() -> rustls::crypto::CryptoProvider {
    rustls::crypto::ring::default_provider()
}

fn random_hex<const N: usize>() -> Result<String, CatalogueError> {
    let mut bytes = [0; N];
    let random: &dyn SecureRandom = provider().secure_random;
    random.fill(&mut bytes).map_err(|_| CatalogueError::Random)?;
    Ok(bytes.iter().map(|b| format!("{b:02x}")).collect())
}

/// The secrets are 128 random bits: a plain hash keeps them as well as a slow one would.
fn hash(secret: &str) -> Vec<u8> {
    crate::pki::fingerprint(secret.as_bytes()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).unwrap()
    }

    #[test]
    fn a_token_is_good_once_for_whom_it_is_and_as_long_as_it_says() {
        let dir = tempfile::tempdir().unwrap();
        let book = Catalogue::open(dir.path()).unwrap();
        let now = 1_700_000_000_000;
        let refused = |token: &str, name: &str, at: u64| {
            let outcome = book.use_token(token, &node(name), at, || -> Result<(), String> { panic!("signed") });
            outcome.unwrap_err().to_string()
        };
        let token = book.create_token("Edge1", 60_000, "alice", now).unwrap();
        assert!(refused(&token.token, "edge2", now).contains("another node"));
        assert!(refused(&token.token, "edge1", now + 60_001).contains("expired"));
        assert!(refused(&format!("{}.{}", token.id, "0".repeat(32)), "edge1", now).contains("unknown"));
        assert!(refused("nonsense", "edge1", now).contains("form"));
        // a signature that fails doesn't use it up
        let failed = book.use_token(&token.token, &node("edge1"), now, || Err::<(), _>("bad request".to_owned()));
        assert_eq!(failed.unwrap_err().to_string(), "bad request");
        // the fingerprint behind it is for the agent
        let whole = format!("{}.abcdef", token.token);
        assert_eq!(book.use_token(&whole, &node("edge1"), now, || Ok(7)).unwrap(), 7);
        assert!(refused(&token.token, "edge1", now).contains("used already"));
        // also after a restart
        drop(book);
        let book = Catalogue::open(dir.path()).unwrap();
        let all = book.tokens(now).unwrap();
        assert_eq!((all.len(), all[0].used_by.as_str(), all[0].created_by.as_str()), (1, "edge1", "alice"));
        let other = book.create_token("", 0, "alice", now).unwrap();
        assert_eq!(other.expires_ms, now + USUAL_MS);
        assert!(book.revoke(&other.id, "alice", now).unwrap() && !book.revoke(&other.id, "alice", now).unwrap());
        assert!(book.create_token("", LONGEST_MS + 1, "alice", now).is_err());
        let bytes = std::fs::read(dir.path().join("catalogue.db")).unwrap();
        let secret = token.token.split('.').nth(1).unwrap();
        assert!(!bytes.windows(secret.len()).any(|w| w == secret.as_bytes()), "the secret is kept in the clear");
    }
}
