//! `tollgate serve`.

use super::Exit;
use crate::settings::RawSettings;

/// Serves.
pub(super) fn run(_raw: &RawSettings) -> anyhow::Result<Exit> {
    Ok(Exit::Done)
}
