//! Options.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// Measures the cost of the program beside a service that decides nothing.
#[derive(Debug, Parser)]
pub(crate) struct Options {
    /// Rounds, 1 to 1,000. Every round measures all cases in turn.
    #[arg(long, default_value_t = 5, value_name = "COUNT", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,
    /// Seconds of each measurement, 1 to 3,600. CPU times have a resolution of a hundredth of a second.
    #[arg(long, default_value_t = 2, value_name = "SECONDS", value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub(crate) seconds: u32,
    /// Measure these alone.
    #[arg(long, value_name = "CASE", num_args = 1..)]
    only: Vec<Case>,
    /// Measure also how cost grows: `rules`, `descriptors`, `keys`, `connections`, `leases` and `replicas`.
    #[arg(long)]
    growth: bool,
    /// The program to measure. Unset: the one that was built along, with the libraries' features that tests
    /// need.
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// envoyproxy/ratelimit, to be measured beside it: `tests/peers.sh` builds it.
    #[arg(long, value_name = "PATH")]
    pub(crate) ratelimit: Option<PathBuf>,
    /// Write charts into this folder.
    #[arg(long, value_name = "PATH")]
    pub(crate) charts: Option<PathBuf>,
    /// Print first what Criterion has left in this folder.
    #[arg(long, value_name = "PATH")]
    pub(crate) micro: Option<PathBuf>,

    /// Be the ceiling.
    #[arg(long, hide = true, value_name = "PORT")]
    pub(crate) ceiling: Option<u16>,
    /// Cargo says it.
    #[arg(long, hide = true)]
    bench: bool,
}

/// Something to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Case {
    /// 100,000 keys, in memory and in Redis.
    Uniform,
    /// One key that everybody asks for.
    Hot,
    /// Three descriptors that count only if all of them pass.
    Layers,
    /// Sliding windows and token buckets, in Redis.
    Algorithms,
    /// Latency at a steady rate.
    Open,
    /// Tail latency at that rate: a busy core, ageing connections, reloads, counters that expire, leases that end.
    Tail,
    /// Time to compile 100,000 rules.
    Compile,
    /// Memory of a counter.
    Memory,
    /// 10, 1,000 and 100,000 rules.
    Rules,
    /// 1, 3 and 16 descriptors.
    Descriptors,
    /// 100 and 1,000,000 keys.
    Keys,
    /// 1, 16 and 256 connections.
    Connections,
    /// A key without contention, a hot one, and 1,000 by Zipf's law, with and without leases.
    Leases,
    /// 1, 2 and 4 processes on one Redis, with and without leases.
    Replicas,
}

impl Case {
    const fn is_growth(self) -> bool {
        match self {
            Self::Uniform | Self::Hot | Self::Layers | Self::Algorithms | Self::Open | Self::Tail => false,
            Self::Compile | Self::Memory => false,
            Self::Rules | Self::Descriptors | Self::Keys | Self::Connections => true,
            Self::Leases | Self::Replicas => true,
        }
    }
}

impl Options {
    /// True if `case` is to be measured.
    pub(crate) fn wants(&self, case: Case) -> bool {
        match &*self.only {
            [] => self.growth || !case.is_growth(),
            only => only.contains(&case),
        }
    }

    /// The program to measure, which also makes the load.
    pub(crate) fn program(&self) -> PathBuf {
        self.program.clone().unwrap_or_else(|| env!("CARGO_BIN_EXE_tollgate").into())
    }
}
