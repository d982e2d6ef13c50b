//! A file with the rules in force, so that a restart keeps them while the management server is away.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::xxh3_64;

use super::resource::Resource;

/// First bytes of the file: its kind, and the version of its format.
const MAGIC: &[u8] = b"tollgate-xds-1\n";
/// Upper bound on the file, in bytes: the largest snapshot and its names.
const MAX_BYTES: u64 = 256 << 20;

/// Content of the file.
#[derive(Clone, PartialEq, Message)]
struct Cached {
    /// Node that the rules are for.
    #[prost(string, tag = "1")]
    node_id: String,
    #[prost(message, repeated, tag = "2")]
    resources: Vec<CachedResource>,
}

#[derive(Clone, PartialEq, Message)]
struct CachedResource {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(bytes = "bytes", tag = "3")]
    config: Bytes,
}

/// Reason not to use the file.
#[derive(Debug, thiserror::Error)]
pub(super) enum CacheError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("not a snapshot of this version of tollgate")]
    Format,
    #[error("the checksum differs: the file is damaged")]
    Damaged,
    #[error("a snapshot for the node {0:?}, not for this one")]
    OtherNode(String),
}

/// File that holds the last good snapshot.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    path: PathBuf,
    node_id: String,
}

impl Cache {
    pub(super) fn new(path: PathBuf, node_id: String) -> Self {
        Self { path, node_id }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Resources of the file; `None` if there is no file. Blocks the thread.
    ///
    /// # Errors
    /// [`CacheError`] if the file cannot be read or is not a snapshot for this node.
    pub(super) fn read(&self) -> Result<Option<Vec<Resource>>, CacheError> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut bytes)?;
        let content = bytes.strip_prefix(MAGIC).ok_or(CacheError::Format)?;
        let (checksum, content) = content.split_first_chunk::<8>().ok_or(CacheError::Format)?;
        if u64::from_le_bytes(*checksum) != xxh3_64(content) {
            return Err(CacheError::Damaged);
        }
        let cached = Cached::decode(content).map_err(|_| CacheError::Format)?;
        if cached.node_id != self.node_id {
            return Err(CacheError::OtherNode(cached.node_id));
        }
        let resource = |cached: CachedResource| Resource::new(&cached.name, cached.version, cached.config);
        Ok(Some(cached.resources.into_iter().map(resource).collect()))
    }

    /// Replaces the file in one step: after a crash it is the old one or the new one. Blocks the thread.
    ///
    /// # Errors
    /// Error of the operating system.
    pub(super) fn write<'r>(&self, resources: impl Iterator<Item = &'r Resource>) -> io::Result<()> {
        let cached = |resource: &Resource| CachedResource {
            name: resource.name().to_owned(),
            version: resource.version().to_owned(),
            config: resource.config().clone(),
        };
        let content = Cached { node_id: self.node_id.clone(), resources: resources.map(cached).collect() }
            .encode_to_vec();
        let mut name = self.path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let aside = self.path.with_file_name(name);
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
        file.write_all(MAGIC)?;
        file.write_all(&xxh3_64(&content).to_le_bytes())?;
        file.write_all(&content)?;
        file.sync_all()?;
        fs::rename(&aside, &self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resource(name: &str) -> Resource {
        Resource::new(name, "v".to_owned(), Bytes::from_static(b"content"))
    }

    #[test]
    fn a_snapshot_is_read_as_it_was_written_and_a_damaged_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("rules.xds"), "node".to_owned());
        assert!(cache.read().unwrap().is_none());
        let resources = vec![resource("a"), resource("b")];
        cache.write(resources.iter()).unwrap();
        assert_eq!(cache.read().unwrap(), Some(resources));
        cache.write([].into_iter()).unwrap();
        assert_eq!(cache.read().unwrap(), Some(Vec::new()));

        cache.write([resource("a")].iter()).unwrap();
        let other = Cache::new(cache.path().to_owned(), "other".to_owned());
        assert!(matches!(other.read(), Err(CacheError::OtherNode(node)) if node == "node"));
        let good = fs::read(cache.path()).unwrap();
        for length in 0..good.len() {
            fs::write(cache.path(), &good[..length]).unwrap();
            assert!(cache.read().is_err(), "{length}");
        }
        for index in 0..good.len() {
            let mut bad = good.clone();
            bad[index] ^= 1;
            fs::write(cache.path(), bad).unwrap();
            assert!(cache.read().is_err(), "{index}");
        }
    }
}
