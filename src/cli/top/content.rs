//! Content of the tabs of `top`.

use serde_json::Value;

use super::screen::Screen;
use super::table::{Column, cut, harmless, lines, text};
use super::{By, Data};
use crate::engine::Algorithm;

impl Screen {
    /// Rows whose `field` contains the filter.
    fn wanted<'d>(&self, rows: &'d Value, field: &str) -> Vec<&'d Value> {
        let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
        rows.iter().filter(|row| text(row, field).contains(&self.filter)).collect()
    }

    pub(super) fn now(&self, data: &Data, width: usize) -> Vec<String> {
        let summary = &data.summary;
        let config = &summary["config"];
        let errors = config["errors"].as_array().map_or(0, Vec::len);
        let rates = format!(
            "{} hits/s   {} over/s   {} shadow/s   {} near/s",
            rate(summary, "hits_per_sec"),
            rate(summary, "over_limit_per_sec"),
            rate(summary, "shadow_per_sec"),
            rate(summary, "near_limit_per_sec"),
        );
        let state = format!(
            "version {}, up {}, {} rules, {errors} errors in rule files",
            text(summary, "version"),
            secs(summary["uptime_secs"].as_u64()),
            config["rules"],
        );
        let mut lines = vec![cut(&rates, width), cut(&state, width), String::new()];
        lines.extend(self.keys(&data.keys, width));
        lines
    }

    pub(super) fn rules(&self, data: &Data, width: usize) -> Vec<String> {
        let row = |row: &&Value| {
            let shadow = if row["shadow_mode"] == true { "shadow" } else { "" };
            vec![
                text(row, "rule"),
                rate(row, "hits_per_sec"),
                rate(row, "over_limit_per_sec"),
                number(row, "hits"),
                number(row, "over_limit"),
                shadow.to_owned(),
            ]
        };
        let columns = [
            Column::text("RULE", 60),
            Column::number("HITS/S"),
            Column::number("OVER/S"),
            Column::number("HITS"),
            Column::number("OVER LIMIT"),
            Column::text("STATE", 10),
        ];
        let rows: Vec<_> = self.wanted(&data.rules["items"], "rule").iter().map(row).collect();
        lines(&columns, &rows, width)
    }

    pub(super) fn keys(&self, keys: &Value, width: usize) -> Vec<String> {
        let counted = if self.by == By::Denied { "DENIALS" } else { "HITS" };
        let key = match self.by {
            By::Denied => "KEY (by denied)",
            By::Hits => "KEY (by hits)",
            By::Use => "KEY (by use)",
        };
        let row = |row: &&Value| {
            vec![
                text(row, "key"),
                text(row, "rule"),
                number(row, "count"),
                number(row, "used"),
                limit_of(&row["limit"]),
                if row["over_limit"] == true { "over limit" } else { "" }.to_owned(),
                secs(row["resets_in_secs"].as_u64()),
            ]
        };
        let columns = [
            Column::text(key, 60),
            Column::text("RULE", 40),
            Column::number(counted),
            Column::number("USED"),
            Column::number("LIMIT"),
            Column::text("STATE", 10),
            Column::number("RESET"),
        ];
        let rows: Vec<_> = self.wanted(&keys["items"], "key").iter().map(row).collect();
        lines(&columns, &rows, width)
    }

    pub(super) fn denials(&self, data: &Data, width: usize) -> Vec<String> {
        let row = |row: &&Value| {
            let at = row["at_ms"].as_u64().unwrap_or_default() / 1_000 % 86_400;
            vec![
                format!("{:02}:{:02}:{:02}", at / 3_600, at / 60 % 60, at % 60),
                text(row, "descriptors"),
                text(row, "rule"),
                text(row, "reason"),
                secs(row["wait_secs"].as_u64()),
            ]
        };
        let columns = [
            Column::text("UTC", 8),
            Column::text("DESCRIPTORS", 60),
            Column::text("RULE", 40),
            Column::text("REASON", 20),
            Column::number("WAIT"),
        ];
        let rows: Vec<_> = self.wanted(&data.denials["items"], "descriptors").iter().map(row).collect();
        lines(&columns, &rows, width)
    }

    /// Lockouts whose client contains the filter, each with its client.
    pub(super) fn locked_out<'d>(&self, data: &'d Data) -> Vec<(String, &'d Value)> {
        let rows = data.lockouts["lockouts"].as_array().map(Vec::as_slice).unwrap_or_default();
        let rows = rows.iter().map(|row| (client(row), row));
        rows.filter(|(client, _)| client.contains(&self.filter)).collect()
    }

    pub(super) fn lockouts(&self, data: &Data, width: usize) -> Vec<String> {
        let row = |(client, row): &(String, &Value)| {
            let is_permanent = row["permanent"] == true;
            vec![
                client.clone(),
                text(row, "domain"),
                text(row, "name"),
                number(row, "blocks"),
                if is_permanent { "never".to_owned() } else { secs(row["ends_in_secs"].as_u64()) },
                String::new(),
            ]
        };
        let columns = [
            Column::text("CLIENT", 60),
            Column::text("DOMAIN", 20),
            Column::text("NAME", 30),
            Column::number("BLOCKS"),
            Column::number("ENDS IN"),
            Column::text(missing(&data.lockouts), 30),
        ];
        let rows: Vec<_> = self.locked_out(data).iter().map(row).collect();
        lines(&columns, &rows, width)
    }
}

/// `10/1m`, `3 in flight`
fn limit_of(limit: &Value) -> String {
    match limit["algorithm"] == Algorithm::Concurrency.name() {
        true => format!("{} in flight", limit["requests"]),
        false => format!("{}/{}", limit["requests"], secs(limit["window_secs"].as_u64())),
    }
}

/// Note on a list of lockouts that may not be all of them.
fn missing(lockouts: &Value) -> &'static str {
    match (&lockouts["complete"], &lockouts["error"], &lockouts["next_cursor"]) {
        (Value::Bool(false), Value::Null, _) => "(still searching)",
        (Value::Bool(false), _, _) => "(a store does not answer)",
        (_, _, Value::String(_)) => "(the first ones)",
        _ => "",
    }
}

/// Entries of a lockout: `user=alice,path=/login`.
fn client(lockout: &Value) -> String {
    let entries = lockout["entries"].as_object().into_iter().flatten();
    let entries = entries.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    harmless(&entries.collect::<Vec<_>>().join(","))
}

fn number(row: &Value, field: &str) -> String {
    row[field].as_u64().map(|number| number.to_string()).unwrap_or_default()
}

fn rate(row: &Value, field: &str) -> String {
    format!("{:.1}", row[field].as_f64().unwrap_or_default())
}

/// A duration in its largest unit: `90s`, `15m`, `2h`, `3d`. Empty without one.
fn secs(secs: Option<u64>) -> String {
    match secs {
        None => String::new(),
        Some(secs @ 0..=119) => format!("{secs}s"),
        Some(secs @ 120..=7_199) => format!("{}m", secs / 60),
        Some(secs @ 7_200..=172_799) => format!("{}h", secs / 3_600),
        Some(secs) => format!("{}d", secs / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        assert_eq!(
            [Some(90), Some(900), Some(7_200), Some(259_200), None].map(secs),
            ["90s", "15m", "2h", "3d", ""]
        );
    }
}
