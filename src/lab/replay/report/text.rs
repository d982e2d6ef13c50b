//! The report for people.

use std::collections::HashSet;
use std::fmt;

use super::comparison::{Comparison, change};
use super::rules::{OffenderReport, RuleReport, RulesReport};
use super::{Differences, Identity, Report, grouped, percent};

/// Offenders named on the line of their rule.
const OFFENDERS_OF_A_RULE: usize = 3;
/// Limits of every replay.
pub(super) const CAVEATS: &str = "A log cannot show how clients would have reacted: denied ones might have tried again, or \
    stayed away.\nRequests that never reached the proxy are missing, and clocks of several proxies differ.";

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { lines, bad, late, requests, rules, against, differences, identity, .. } = self;
        let [lines, bad, late, replayed] = [lines, bad, late, requests].map(|number| grouped(*number));
        write!(f, "lines {lines} (bad {bad}, late {late})   requests {replayed}")?;
        if let (Some(from), Some(until)) = (&self.from, &self.until) {
            write!(f, "   {from} … {until}")?;
        }
        writeln!(f)?;
        self.bad_lines.iter().try_for_each(|line| writeln!(f, "bad: {line}"))?;
        self.notes.iter().try_for_each(|note| writeln!(f, "note: {note}"))?;
        if self.evicted > 0 {
            let evicted = grouped(self.evicted);
            writeln!(
                f,
                "warning: {evicted} counters did not fit into memory, so limits denied less than they should"
            )?;
        }
        writeln!(f)?;
        if let Some(identity) = identity {
            identity.write(f)?;
        }
        if let (Some(against), Some(differences)) = (against, differences) {
            differences.write(f, against, rules)?;
        } else {
            let share = percent(rules.denied, *requests);
            writeln!(f, "denied by {}: {} ({share:.2} %)", rules.name, grouped(rules.denied))?;
        }
        if rules.unmatched > 0 {
            writeln!(f, "without a limit: {}", grouped(rules.unmatched))?;
        }
        writeln!(f)?;
        if let Some(comparison) = &self.comparison {
            comparison.write(f)?;
        }
        for side in [Some(rules), against.as_ref()].into_iter().flatten() {
            if against.is_some() {
                writeln!(f, "--- {}", side.name)?;
            }
            side.write(f, self.denied_percent)?;
            writeln!(f)?;
        }
        write!(f, "{CAVEATS}")
    }
}

impl Identity {
    fn write(self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { compared, denied_in_log, only_log, only_rules } = self;
        let numbers = [denied_in_log, compared, only_log, only_rules].map(grouped);
        let [denied_in_log, compared, only_log, only_rules] = numbers;
        writeln!(
            f,
            "in the log: {denied_in_log} of {compared} denied; {only_log} denied only there, {only_rules} only by the rules"
        )
    }
}

impl Differences {
    fn write(self, f: &mut fmt::Formatter<'_>, against: &RulesReport, rules: &RulesReport) -> fmt::Result {
        let rows = [
            (format!("denied by {} (old)", against.name), against.denied),
            (format!("denied by {} (new)", rules.name), rules.denied),
            ("only by the old rules".to_owned(), self.only_against),
            ("only by the new rules".to_owned(), self.only_rules),
            ("by both".to_owned(), self.both),
        ];
        let width = rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or_default();
        rows.iter().try_for_each(|(name, count)| writeln!(f, "{name:width$}  {:>14}", grouped(*count)))
    }
}

impl Comparison {
    /// Writes the rows of old and new rules.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.rules.is_empty() {
            let head = ["rule", "old limit", "new limit", "denied, old", "new", "change"];
            let rows = self.rules.iter().map(|row| {
                let limits =
                    [&row.limits_against, &row.limits].map(|limits| limits.clone().unwrap_or_default());
                let [old, new] = limits;
                let [before, after] = [row.denied_against, row.denied].map(grouped);
                vec![row.rule.clone(), old, new, before, after, change(row.denied_against, row.denied)]
            });
            write_table(f, &head, 3, rows.collect())?;
            writeln!(f)?;
        }
        if !self.offenders.is_empty() {
            let head = ["top offender", "rule", "denied, old", "new", "change"];
            let rows = self.offenders.iter().map(|row| {
                let [before, after] = [row.denied_against, row.denied].map(grouped);
                vec![row.key.clone(), row.rule.clone(), before, after, change(row.denied_against, row.denied)]
            });
            write_table(f, &head, 2, rows.collect())?;
            writeln!(f)?;
        }
        Ok(())
    }
}

/// Writes rows below their head, of whose columns the first `texts` are aligned left.
fn write_table(
    f: &mut fmt::Formatter<'_>,
    head: &[&str],
    texts: usize,
    mut rows: Vec<Vec<String>>,
) -> fmt::Result {
    rows.insert(0, head.iter().map(|&name| name.to_owned()).collect());
    let width = |column: usize| {
        rows.iter()
            .filter_map(|row| row.get(column))
            .map(|cell| cell.chars().count())
            .max()
            .unwrap_or_default()
    };
    let widths: Vec<_> = (0..head.len()).map(width).collect();
    rows.iter().try_for_each(|row| {
        let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
            if column < texts { format!("{cell:width$}") } else { format!("{cell:>width$}") }
        });
        writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())
    })
}

impl RulesReport {
    fn write(&self, f: &mut fmt::Formatter<'_>, denied_percent: f64) -> fmt::Result {
        let suggested = format!("for ≤ {denied_percent} %");
        let head = [
            "rule",
            "limit",
            "hits",
            "denied",
            "%",
            "keys",
            "keys denied",
            "p99 use",
            "busiest second",
            &suggested,
        ];
        let rows = self.rules.iter().flat_map(RuleReport::rows).map(Vec::from);
        write_table(f, &head, 2, rows.collect())?;
        let mut lines = Vec::new();
        let mut rules = HashSet::new();
        // Limits of requests may have several rows of one name.
        for rule in self.rules.iter().filter(|rule| rule.denied > 0 && rules.insert(&rule.rule)) {
            let of_rule = self.offenders.iter().filter(|offender| offender.rule == rule.rule);
            let named: Vec<_> = of_rule.take(OFFENDERS_OF_A_RULE).map(OffenderReport::text).collect();
            if !named.is_empty() {
                lines.push(format!("top offenders of {}: {}", rule.rule, named.join(", ")));
            }
        }
        lines.extend(self.never_hit.iter().map(|rule| format!("never hit: {rule}")));
        if !lines.is_empty() {
            writeln!(f, "\n{}", lines.join("\n"))?;
        }
        Ok(())
    }
}

impl RuleReport {
    fn rows(&self) -> impl Iterator<Item = [String; 10]> {
        self.limits.iter().enumerate().map(|(index, limit)| {
            let first = |text: String| if index == 0 { text } else { String::new() };
            let busiest = limit.busiest_second.as_ref();
            let busiest = busiest.map(|busiest| format!("{} ({})", busiest.start, grouped(busiest.hits)));
            [
                first(self.rule.clone()),
                limit.limit.clone(),
                first(grouped(self.hits)),
                grouped(if index == 0 && self.limits.len() == 1 { self.denied } else { limit.denied }),
                format!("{:.2}", percent(limit.denied, self.hits)),
                first(grouped(self.keys)),
                first(grouped(self.denied_keys)),
                format!("{:.0} %", limit.use_percent[1]),
                first(busiest.unwrap_or_default()),
                limit.suggested.map(grouped).unwrap_or_default(),
            ]
        })
    }
}

impl OffenderReport {
    fn text(&self) -> String {
        format!(
            "{} ({} denied, {:.0} % of its hits)",
            self.key,
            grouped(self.denied),
            percent(self.denied, self.hits)
        )
    }
}
