//! `tollgate man` and `tollgate completions`: generated from the command line's own definition.

use anyhow::bail;
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use super::{Exit, print};

/// Arguments of `man`.
#[derive(Args, Debug)]
pub(super) struct ManArgs {
    /// Command to describe. Without one, the program itself.
    #[arg(value_name = "COMMAND")]
    command: Option<String>,
}

/// Arguments of `completions`.
#[derive(Args, Debug)]
pub(super) struct CompletionsArgs {
    /// Shell to complete in.
    shell: Shell,
}

/// Prints a man page in troff.
pub(super) fn man(args: &ManArgs, program: Command) -> anyhow::Result<Exit> {
    let page = match &args.command {
        None => program,
        Some(name) => match program.find_subcommand(name) {
            Some(command) => {
                let name = format!("tollgate-{name}");
                command.clone().display_name(name.clone()).bin_name(name)
            }
            None => bail!("no such command: {name}"),
        },
    };
    let mut text = Vec::new();
    Man::new(page).render(&mut text)?;
    print(&String::from_utf8_lossy(&text))
}

/// Prints a completion script.
pub(super) fn completions(args: &CompletionsArgs, mut program: Command) -> anyhow::Result<Exit> {
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut program, "tollgate", &mut text);
    print(&String::from_utf8_lossy(&text))
}
