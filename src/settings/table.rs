//! The table of all settings, as docs/settings.md shows it.

use clap::{Arg, Args as _, Command};

use super::RawSettings;

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The heading above it.
    pub heading: String,
    /// The environment variable.
    pub variable: String,
    /// The flag, with its dashes.
    pub flag: String,
    /// The default; `None` if the meaning describes it.
    pub default: Option<String>,
    /// The meaning, as in `--help`.
    pub meaning: String,
}

/// Every setting, in the order of `--help`.
pub fn table() -> Vec<Row> {
    RawSettings::augment_args(Command::new("")).get_arguments().filter_map(row).collect()
}

/// [`table`] in Markdown: a table under each heading.
pub fn markdown() -> String {
    let mut text = String::new();
    let mut last_heading = String::new();
    for Row { heading, variable, flag, default, meaning } in table() {
        if heading != last_heading {
            text +=
                &format!("\n**{heading}**\n\n| Variable | Flag | Default | Meaning |\n|---|---|---|---|\n");
            last_heading = heading;
        }
        let default = default.map_or(String::new(), |default| format!("`{default}`"));
        text += &format!("| `{variable}` | `{flag}` | {default} | {} |\n", meaning.replace('|', "\\|"));
    }
    text + "\n"
}

fn row(arg: &Arg) -> Option<Row> {
    let help = arg.get_long_help().or_else(|| arg.get_help())?;
    let default = arg.get_default_values().first().filter(|default| !default.is_empty());
    Some(Row {
        heading: arg.get_help_heading().unwrap_or_default().to_owned(),
        variable: arg.get_env()?.to_string_lossy().into_owned(),
        flag: format!("--{}", arg.get_long()?),
        default: default.map(|default| default.to_string_lossy().into_owned()),
        meaning: help.to_string().replace('\n', " "),
    })
}
