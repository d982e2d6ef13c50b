//! `tollgate schema`: JSON Schema of rule files and test files, for editors.

use clap::{Args, ValueEnum};

use super::{Exit, print};
use crate::engine::rules::RULE_FILE;
use crate::engine::schema::json_schema;
use crate::lab::suite::TEST_FILE;

/// Arguments of `schema`.
#[derive(Args, Debug)]
pub(super) struct SchemaArgs {
    /// Kind of file to describe.
    kind: FileKind,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum FileKind {
    /// Rule files.
    Rules,
    /// Files of `tollgate test`.
    Test,
}

/// Prints the schema.
pub(super) fn run(args: &SchemaArgs) -> anyhow::Result<Exit> {
    let schema = match args.kind {
        FileKind::Rules => json_schema(&RULE_FILE, "tollgate rules"),
        FileKind::Test => json_schema(&TEST_FILE, "tollgate rule tests"),
    };
    print(&format!("{schema:#}\n"))
}
