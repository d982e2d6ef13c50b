//! `tollgate replay`: logs of every format, bad ones among them, and what the report says.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tempfile::TempDir;

const RULES: &str = "domain: shop\ndescriptors:\n\
    - {key: user, rate_limit: {unit: minute, requests_per_unit: 5}}\n\
    - {key: remote_address, rate_limits: [3/second, 100/hour]}\n\
    - {key: legacy, rate_limit: 1/day}\n";

fn write(dir: &TempDir, name: &str, text: impl AsRef<[u8]>) {
    fs::write(dir.path().join(name), text).expect("it can be written");
}

/// A directory with `rules.yaml` and the files given.
fn dir(files: &[(&str, &str)]) -> TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    write(&dir, "rules.yaml", RULES);
    files.iter().for_each(|(name, text)| write(&dir, name, text));
    dir
}

fn tollgate(dir: &Path, arguments: &[&str], stdin: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tollgate"));
    command.arg("replay").args(arguments).current_dir(dir).env_remove("HASH_KEY");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = command.spawn().expect("the program runs");
    let mut pipe = process.stdin.take().expect("a pipe");
    // A program that stops early closes it.
    drop(pipe.write_all(stdin));
    drop(pipe);
    process.wait_with_output().expect("it ends")
}

fn report(dir: &TempDir, arguments: &[&str], stdin: &[u8]) -> Value {
    let output = tollgate(dir.path(), &[&["--rules", "rules.yaml", "--json"], arguments].concat(), stdin);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{stderr}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// `lines, requests, denied` and of the rule for users `hits, denied, keys`.
fn figures(report: &Value) -> [u64; 6] {
    let rules = report["rules"].as_array().expect("rules");
    let user = rules.iter().find(|rule| rule["rule"] == "shop.user").cloned().unwrap_or_default();
    let number = |value: &Value, name: &str| value[name].as_u64().unwrap_or_default();
    let [lines, requests, denied] = ["lines", "requests", "denied"].map(|name| number(report, name));
    let [hits, denied_hits, keys] = ["hits", "denied", "keys"].map(|name| number(&user, name));
    [lines, requests, denied, hits, denied_hits, keys]
}

/// Seven requests of ann and one of bob within 20 seconds, and one without a user.
fn lines(line: impl Fn(u32, &str) -> String) -> String {
    let users = ["ann", "ann", "ann", "bob", "ann", "ann", "ann", "ann", "-"];
    users.iter().zip(10..).map(|(user, second)| line(second, user) + "\n").collect()
}

#[test]
fn logs_of_every_format_are_replayed_alike() {
    let mapped = |format: &str, value: &str| {
        format!("{format}requests:\n- domain: shop\n  descriptors: [{{user: \"{value}\"}}]\n")
    };
    let header = "%REQ(x-user)%";
    let ndjson = |second: u32, user: &str| {
        let entry = if user == "-" { r#"["other","x"]"#.to_owned() } else { format!(r#"["user","{user}"]"#) };
        format!(
            r#"{{"t":"2026-11-16T12:00:{second}.5Z","domain":"shop","descriptors":[{{"entries":[{entry}]}}],"verdict":"ok"}}"#
        )
    };
    let text = |second: u32, user: &str| format!("[2026-11-16T12:00:{second}.000Z] \"{user}\" /path 200");
    let json = |second: u32, user: &str| {
        let user = if user == "-" { "null".to_owned() } else { format!("\"{user}\"") };
        format!(r#"{{"time":"2026-11-16T12:00:{second}Z","request":{{"user":{user}}},"more":[{{}}]}}"#)
    };
    let combined = |second: u32, user: &str| {
        format!(r#"10.0.0.1 - {user} [16/Nov/2026:12:00:{second} +0000] "GET / HTTP/1.1" 200 5 "-" "a \" b""#)
    };
    let csv = |second: u32, user: &str| format!("17948{second},\"{user}\",/");
    for (name, map, log) in [
        (
            "text",
            mapped("format: '[%START_TIME%] \"%REQ(X-USER)%\" %REQ(:PATH)% %RESPONSE_CODE%'\n", header),
            lines(text),
        ),
        ("json", mapped("format: json\n", "%request.user%"), lines(json)),
        (
            "operators",
            mapped("format: {time: '%START_TIME%', request: {user: '%REQ(X-User)%'}}\n", header),
            lines(json),
        ),
        ("combined", mapped("format: combined\n", "%user%"), lines(combined)),
        ("csv", mapped("format: csv\n", "%user%"), "time,user,path\n".to_owned() + &lines(csv)),
        ("columns", mapped("columns: [when, who, path]\ntime: when\n", "%who%"), lines(csv)),
    ] {
        let dir = dir(&[("map.yaml", &map), ("access.log", &log)]);
        let found = report(&dir, &["--map", "map.yaml", "access.log"], b"");
        assert_eq!(figures(&found), [9, 8, 2, 8, 2, 2], "{name}: {found:#}");
        assert_eq!(
            found["offenders"],
            json!([{"rule": "shop.user", "key": "user=ann", "hits": 7, "denied": 2}]),
            "{name}"
        );
    }
    let found = report(&dir(&[]), &[], lines(ndjson).as_bytes());
    assert_eq!(figures(&found), [9, 9, 2, 8, 2, 2], "{found:#}");
    assert_eq!((&found["unmatched"], &found["bad"], &found["late"]), (&json!(1), &json!(0), &json!(0)));
    assert!(found["never_hit"].to_string().contains("shop.legacy (rules.yaml:5)"), "{found:#}");
}

/// A log of Envoy's default format, where the address is in a header.
fn forwarded(second: u32, millis: u32, path: &str, status: u32) -> String {
    format!(
        "[2026-11-16T12:00:{second:02}.{millis:03}Z] \"GET {path} HTTP/1.1\" {status} - 0 5 1 - \"10.0.0.1\" \"curl\" \
         \"id\" \"shop.test\" \"-\"\n"
    )
}

const BY_ADDRESS: &str = "requests:\n- domain: shop\n  where: {path: '/api/*', not: {status: [404]}}\n  descriptors:\n  \
    - {remote_address: '%REQ(X-FORWARDED-FOR)%'}\n  hits: 1\n";

#[test]
fn conditions_choose_lines_and_lines_are_replayed_in_the_order_of_time() {
    let log = forwarded(5, 900, "/api/a?x=1", 200)
        + &forwarded(5, 100, "/api/b", 200)
        + &forwarded(5, 200, "/api/missing", 404)
        + &forwarded(5, 300, "/other", 200)
        + &forwarded(6, 0, "/api/c", 200)
        + &forwarded(5, 500, "/api/d", 200)
        + &forwarded(5, 800, "/api/e", 200);
    let dir = dir(&[("map.yaml", BY_ADDRESS), ("access.log", &log)]);
    let found = report(&dir, &["--map", "map.yaml", "access.log"], b"");
    // Four in second 5, of which three may pass.
    assert_eq!(
        (&found["requests"], &found["denied"], &found["late"]),
        (&json!(5), &json!(1), &json!(0)),
        "{found:#}"
    );
    let limits = &found["rules"][0]["limits"];
    assert_eq!((&limits[0]["denied"], &limits[1]["denied"]), (&json!(1), &json!(0)));
    assert_eq!((&limits[0]["limit"], &limits[0]["suggested"]), (&json!("3 per second"), &json!(4)));
    assert_eq!(limits[0]["busiest_second"], json!({"start": "2026-11-16T12:00:05Z", "hits": 4}));
}

#[test]
fn lines_later_than_the_delay_are_counted() {
    // More than is read at once lies between the two.
    let between = forwarded(50, 0, "/api/", 404).repeat(6_000) + &forwarded(50, 0, "/api/", 200);
    let log = forwarded(1, 0, "/api/", 200) + &between + &between + &forwarded(1, 500, "/api/", 200);
    let dir = dir(&[("map.yaml", BY_ADDRESS), ("1.log", &log), ("2.log", &forwarded(1, 5, "/api/", 200))]);
    for (delay, late) in [("60s", 0), ("10s", 1)] {
        let found = report(&dir, &["--map", "map.yaml", "1.log", "2.log", "--reorder", delay], b"");
        assert_eq!((&found["requests"], &found["late"]), (&json!(5), &json!(late)), "{delay}");
    }
}

#[test]
fn compressed_files_and_stdin_are_read_together() {
    let log = lines(|second, user| format!("2026-11-16T12:00:{second}Z {user}"));
    let map = "format: '%START_TIME% %REQ(X-USER)%'\nrequests: [{domain: shop, descriptors: [{user: '%REQ(X-USER)%'}]}]\n";
    let dir = dir(&[("map.yaml", map)]);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(log.as_bytes()).expect("memory");
    write(&dir, "1.gz", encoder.finish().expect("memory"));
    let zstd = ruzstd::encoding::compress_to_vec(log.as_bytes(), ruzstd::encoding::CompressionLevel::Fastest);
    write(&dir, "2.zst", zstd);
    let found = report(&dir, &["--map", "map.yaml", "1.gz", "-", "2.zst"], log.as_bytes());
    assert_eq!(figures(&found), [27, 24, 16, 24, 16, 2], "{found:#}");
}

#[test]
fn both_sets_of_rules_are_compared_and_the_log_with_those_in_force() {
    let line = |second: u32, user: &str| {
        // The log denied from the fourth request on, as the rules in force do.
        let verdict = if second >= 14 && user == "ann" { "over_limit" } else { "ok" };
        format!(
            r#"{{"t":"2026-11-16T12:00:{second}Z","domain":"shop","descriptors":[{{"entries":[["user","{user}"]]}}],"verdict":"{verdict}"}}"#
        )
    };
    let force = "domain: shop\ndescriptors: [{key: user, rate_limit: 3/minute}]\n";
    let dir = dir(&[("force.yaml", force)]);
    let log = lines(line);
    let found = report(&dir, &["--against", "force.yaml", "--identity"], log.as_bytes());
    assert_eq!(found["differences"], json!({"both": 2, "only_rules": 0, "only_against": 2}));
    assert_eq!((&found["denied"], &found["against"]["denied"]), (&json!(2), &json!(4)));
    assert_eq!(found["against"]["rules"][0]["denied"], json!(4));
    assert_eq!(found["identity"]["only_log"], json!(0));
    let compared = &found["comparison"];
    assert_eq!(
        compared["rules"],
        json!([{"rule": "shop.user", "limits": "5 per minute", "limits_against": "3 per minute", "denied": 2,
                "denied_against": 4}])
    );
    assert_eq!(
        compared["offenders"],
        json!([{"rule": "shop.user", "key": "user=ann", "denied": 2, "denied_against": 4}])
    );
    let arguments = ["--rules", "rules.yaml", "--against", "force.yaml", "--html", "report.html"];
    let shown = tollgate(dir.path(), &arguments, log.as_bytes());
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for expected in [
        "denied by force.yaml (old)               4\ndenied by rules.yaml (new)               2\n",
        "rule       old limit     new limit     denied, old  new  change\n\
         shop.user  3 per minute  5 per minute            4    2      -2\n",
        "top offender  rule       denied, old  new  change\n\
         user=ann      shop.user            4    2      -2\n",
        "--- rules.yaml\n",
        "--- force.yaml\n",
        "top offenders of shop.user: user=ann (4 denied, 57 % of its hits)",
    ] {
        assert!(shown.contains(expected), "{expected} in {shown}");
    }
    let html = fs::read_to_string(dir.path().join("report.html")).expect("a page");
    let row = "<td>3 per minute</td><td>5 per minute</td><td class=\"n\">4</td><td class=\"n\">2</td><td class=\"n\">-2</td>";
    assert!(html.contains(row), "{html}");
    for side in ["By rule: rules.yaml", "By rule: force.yaml", "2 of 7 (28.57 %)", "4 of 7 (57.14 %)"] {
        assert!(html.contains(side), "{side} in {html}");
    }
    let wrong = tollgate(dir.path(), &["--rules", "rules.yaml", "--identity"], log.as_bytes());
    let stderr = String::from_utf8_lossy(&wrong.stderr);
    assert!(
        stderr.contains("verdicts differ from those in the log (2 denied only there, 0 only here)"),
        "{stderr}"
    );
}

#[test]
fn bad_lines_are_counted_and_shown_and_too_many_end_the_replay() {
    let dir = dir(&[("map.yaml", BY_ADDRESS)]);
    let mut log = forwarded(5, 0, "/api/", 200).into_bytes().repeat(94);
    for bad in [
        &b"garbage"[..],
        b"\xff\xfe\x00",
        b"[yesterday] \"GET / HTTP/1.1\" 200 - 0 5 1 - \"-\" \"-\" \"-\" \"-\" \"-\"",
        b"{}",
        b"[",
        b"\x1b[31m",
    ] {
        log.extend_from_slice(bad);
        log.push(b'\n');
    }
    log.extend_from_slice(&[b'x'; 3 << 20]);
    log.push(b'\n');
    // Bytes that are no UTF-8 are part of a header.
    log.extend_from_slice(&forwarded(6, 0, "/api/\u{1}", 200).into_bytes());
    let found = report(&dir, &["--map", "map.yaml", "--max-bad", "8"], &log);
    assert_eq!(
        (&found["lines"], &found["bad"], &found["requests"]),
        (&json!(102), &json!(7), &json!(95)),
        "{found:#}"
    );
    let shown = found["bad_lines"].as_array().expect("a list");
    assert_eq!(shown.len(), 5);
    assert_eq!((&shown[0]["line"], &shown[0]["text"]), (&json!(95), &json!("garbage")));
    assert_eq!(shown[2]["reason"], "has a time that cannot be read");

    let output = tollgate(dir.path(), &["--rules", "rules.yaml", "--map", "map.yaml"], &log);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{stderr}");
    assert!(stderr.contains("7 of 102 lines are bad, more than 1 % (--max-bad)"), "{stderr}");
    assert!(stderr.contains("<stdin>:95: does not have the format of the log: garbage"), "{stderr}");
    assert!(!stderr.contains('\u{1b}'));
}

#[test]
fn web_servers_log_clients_that_send_no_request_line() {
    let map = "format: combined\nrequests:\n- {domain: shop, descriptors: [{remote_address: '%remote_address%'}]}\n\
        - {domain: shop, where: {path: '*'}, descriptors: [{user: '%method%'}]}\n";
    let line = |request: &str| {
        format!("10.0.0.1 - - [16/Nov/2026:12:00:00 +0000] \"{request}\" 400 0 \"-\" \"-\"\n")
    };
    let log: String = ["GET / HTTP/1.1", "-", "", r"\x16\x03\x01", "HELP"].map(line).concat();
    let dir = dir(&[("map.yaml", map)]);
    let found = report(&dir, &["--map", "map.yaml"], log.as_bytes());
    assert_eq!(
        (&found["lines"], &found["bad"], &found["requests"]),
        (&json!(5), &json!(0), &json!(6)),
        "{found:#}"
    );
    let rules = found["rules"].as_array().expect("rules").iter();
    let hits: Vec<_> = rules.map(|rule| (rule["rule"].clone(), rule["hits"].clone())).collect();
    assert_eq!(hits, [(json!("shop.remote_address"), json!(5)), (json!("shop.user"), json!(1))]);
}

#[test]
fn a_truncated_file_is_replayed_up_to_its_end() {
    let dir = dir(&[("map.yaml", BY_ADDRESS)]);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::none());
    let line = forwarded(5, 0, "/api/", 200);
    encoder.write_all(line.repeat(5_000).as_bytes()).expect("memory");
    let mut gzip = encoder.finish().expect("memory");
    gzip.truncate(gzip.len() * 2 / 3);
    write(&dir, "access.log.gz", gzip);
    let found = report(&dir, &["--map", "map.yaml", "access.log.gz"], b"");
    let lines = found["lines"].as_u64().expect("a number");
    assert!((2_000..4_000).contains(&lines), "{lines}");
    assert!(found["bad"].as_u64().is_some_and(|bad| (1..=2).contains(&bad)), "{found:#}");
    let last = found["bad_lines"].as_array().and_then(|bad| bad.last()).expect("a bad line");
    assert!(last["reason"].to_string().contains("cannot be read beyond this line"), "{found:#}");
    assert!(last["line"].as_u64().is_some_and(|number| lines.abs_diff(number) <= 1), "{found:#}");
}

#[test]
fn a_line_far_in_the_future_is_bad_and_a_gap_is_not() {
    let map = "format: '%START_TIME% %REQ(X-USER)%'\nrequests: [{domain: shop, descriptors: [{user: '%REQ(X-USER)%'}]}]\n";
    let dir = dir(&[("map.yaml", map)]);
    let line = |day: u32, year: u32| format!("{year}-11-{day:02}T12:00:00Z ann\n");
    // The second line and the first one are years ahead of their successors; five days pass before the last two.
    let log =
        line(1, 2046) + &line(1, 2026) + &line(1, 2036) + &line(1, 2026) + &line(6, 2026) + &line(6, 2026);
    let found = report(&dir, &["--map", "map.yaml", "--max-bad", "50"], log.as_bytes());
    let figures = ["lines", "bad", "late", "requests"].map(|name| found[name].as_u64());
    assert_eq!(figures, [Some(6), Some(2), Some(0), Some(4)], "{found:#}");
    let shown = ["line", "reason"].map(|name| found["bad_lines"][1][name].clone());
    assert_eq!(shown, [json!(3), json!("has a time far ahead of the lines around it")]);
    assert_eq!(found["until"], "2026-11-06T12:00:00Z");
}

#[test]
fn the_verdict_of_a_line_is_compared_once_with_those_on_its_requests() {
    let request = |user: &str| format!("- {{domain: shop, descriptors: [{{user: '{user}'}}]}}\n");
    let map = format!("format: '%START_TIME% %RESPONSE_CODE%'\nrequests:\n{}{}", request("a"), request("b"))
        .replace("'b'}]", "'b'}, {legacy: x}]");
    let dir = dir(&[("map.yaml", &map)]);
    // The limit of the second request is one a day.
    let log = "2026-11-16T12:00:00Z 200\n2026-11-16T12:00:00Z 429\n2026-11-16T12:00:01Z 429\n";
    let found = report(&dir, &["--map", "map.yaml"], log.as_bytes());
    assert_eq!((&found["requests"], &found["denied"]), (&json!(6), &json!(2)), "{found:#}");
    let expected = json!({"compared": 3, "denied_in_log": 2, "only_log": 0, "only_rules": 0});
    assert_eq!(found["identity"], expected);
}

#[test]
fn rules_for_values_that_the_decision_log_hashes_are_noted() {
    let dir = dir(&[]);
    let rules = "domain: shop\ndescriptors:\n- {key: token, normalize: [hash], rate_limit: 1/day}\n\
        - {key: token, value: vip, rate_limit: 9/day}\n- {key: user, value: ann, rate_limit: 9/day}\n";
    write(&dir, "rules.yaml", rules);
    let found = report(&dir, &[], b"");
    let notes = found["notes"].as_array().expect("a list");
    assert!(
        notes.len() == 1 && notes[0].to_string().contains("values of 'token' in domain shop"),
        "{notes:?}"
    );
}

#[test]
fn limits_in_requests_have_a_row_for_each_descriptor_and_limit() {
    let line = |entry: &str, limit: u32| {
        format!(
            "{{\"t\":\"2026-11-16T12:00:00Z\",\"domain\":\"shop\",\"descriptors\":[{{\"entries\":[[{entry}]],\
             \"limit\":{{\"requests_per_unit\":{limit},\"unit\":\"minute\"}}}}],\"verdict\":\"ok\"}}\n"
        )
    };
    let log = [
        line(r#""user","ann""#, 1).repeat(3),
        line(r#""user","bob""#, 1),
        line(r#""user","ann""#, 9),
        line(r#""tenant","acme""#, 1).repeat(2),
    ];
    let found = report(&dir(&[]), &[], log.concat().as_bytes());
    let rows = found["rules"].as_array().expect("rules").iter().map(|rule| {
        let limits = rule["limits"].as_array().expect("limits");
        assert_eq!(limits.len(), 1, "{rule}");
        json!([rule["rule"], limits[0]["limit"], rule["hits"], rule["denied"]])
    });
    assert_eq!(
        rows.collect::<Vec<_>>(),
        [
            json!(["shop.user (limit in requests)", "1 per minute", 4, 2]),
            json!(["shop.tenant (limit in requests)", "1 per minute", 2, 1]),
            json!(["shop.user (limit in requests)", "9 per minute", 1, 0]),
        ]
    );
    assert!(found["never_hit"].to_string().contains("shop.user (rules.yaml:3)"), "{found:#}");
}

#[test]
fn mistakes_are_errors_with_exit_code_2() {
    let map = "requests: [{domain: shop, descriptors: [{user: '%REQ(X-USER)%'}]}]\n";
    let dir = dir(&[
        ("map.yaml", map),
        ("bad.yaml", "requsts: []\n"),
        (
            "time.yaml",
            "time: time\ntime_format: '%F %Q'\nrequests: [{domain: shop, descriptors: [{user: x}]}]\n",
        ),
        ("wrong.yaml", "domain: a\ndescriptors: [{kee: a}]\n"),
    ]);
    for (arguments, expected) in [
        (
            &["--rules", "rules.yaml", "--map", "map.yaml"][..],
            "map.yaml: the format of the log has no field 'REQ(X-USER)'",
        ),
        (&["--rules", "rules.yaml", "--map", "bad.yaml"], "requsts"),
        (&["--rules", "wrong.yaml"], "wrong.yaml:2:"),
        (&["--rules", "rules.yaml", "--format", "combined"], "needs --map FILE or --envoy-config FILE"),
        (&["--rules", "rules.yaml", "--map", "absent.yaml"], "absent.yaml cannot be read"),
        (&["--rules", "rules.yaml", "--html", "absent/report.html"], "absent/report.html cannot be written"),
        (&["--rules", "rules.yaml", "--csv", "map.yaml"], "map.yaml cannot be created"),
        (&["--rules", "rules.yaml", "--map", "time.yaml"], "unknown directive '%Q'"),
        (&["--rules", "rules.yaml", "absent.log"], "absent.log cannot be read"),
        (&["--rules", "rules.yaml", "."], ". cannot be read"),
        (&["--rules", "rules.yaml", "--max-bad", "101"], "not a number from 0 to 100"),
        (&["--rules", "rules.yaml", "--map", "map.yaml", "--format", "nginx"], "unknown format 'nginx'"),
    ] {
        let output = tollgate(dir.path(), arguments, b"");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {stderr}");
        assert!(stderr.contains(expected), "{expected} in {stderr}");
    }
}

#[test]
fn the_report_is_a_text_and_tables() {
    let dir = dir(&[("map.yaml", BY_ADDRESS), ("access.log", &forwarded(5, 0, "/api/", 200).repeat(6))]);
    let arguments = [
        "--rules",
        "rules.yaml",
        "--map",
        "map.yaml",
        "--csv",
        "tables",
        "--html",
        "report.html",
        "access.log",
    ];
    let output = tollgate(dir.path(), &arguments, b"");
    let text = String::from_utf8_lossy(&output.stdout);
    for expected in [
        "lines 6 (bad 0, late 0)   requests 6   2026-11-16T12:00:05Z … 2026-11-16T12:00:05Z",
        "denied by rules.yaml: 3 (50.00 %)",
        "top offenders of shop.remote_address: remote_address=10.0.0.1 (3 denied, 50 % of its hits)",
        "never hit: shop.user (rules.yaml:3)",
        "A log cannot show",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let table = |name: &str| fs::read_to_string(dir.path().join("tables").join(name)).expect("a table");
    assert!(table("offenders.csv").contains("shop.remote_address,remote_address=10.0.0.1,6,3"));
    assert_eq!(table("rules.csv").lines().count(), 3);
    assert!(table("timeline.csv").contains("2026-11-16T12:00:05Z,1,6,3,0"));
    let html = fs::read_to_string(dir.path().join("report.html")).expect("a page");
    assert!(
        html.contains("<svg")
            && html.contains("3 of 6 (50.00 %)")
            && html.contains("shop.user (rules.yaml:3)")
    );
}

#[test]
fn the_chart_of_a_day_has_a_tick_every_three_hours() {
    let map = "format: '%START_TIME% %REQ(X-USER)%'\nrequests: [{domain: shop, descriptors: [{user: '%REQ(X-USER)%'}]}]\n";
    let log: String = (0..24).map(|hour| format!("2026-11-16T{hour:02}:00:00Z ann\n")).collect();
    let dir = dir(&[("map.yaml", map), ("access.log", &log)]);
    let arguments = ["--rules", "rules.yaml", "--map", "map.yaml", "--html", "report.html", "access.log"];
    assert_eq!(tollgate(dir.path(), &arguments, b"").status.code(), Some(0));
    let html = fs::read_to_string(dir.path().join("report.html")).expect("a page");
    let ticks = html.split("<text class=\"tick\" x=\"").skip(1).map(|tick| {
        let (x, rest) = tick.split_once('"').expect("an attribute");
        let label = rest.split_once('>').and_then(|(_, label)| label.split_once('<')).expect("a label").0;
        (x.parse::<f64>().expect("a number"), label.to_owned())
    });
    let ticks: Vec<_> = ticks.collect();
    let labels: Vec<_> = ticks.iter().map(|(_, label)| &**label).collect();
    assert_eq!(labels, ["00:00", "03:00", "06:00", "09:00", "12:00", "15:00", "18:00", "21:00"]);
    let distances: Vec<_> = ticks.windows(2).map(|pair| pair[1].0 - pair[0].0).collect();
    let is_even = distances.iter().all(|distance| (distance - distances[0]).abs() < 0.2);
    // The first bar begins shortly before midnight.
    assert!((0.0..5.0).contains(&ticks[0].0) && is_even, "{ticks:?}");
}

#[test]
fn the_page_escapes_what_requests_contain_and_loads_nothing() {
    let hostile = "<script>alert(1)</script>&\"'";
    let map = "format: json\nrequests: [{domain: shop, descriptors: [{remote_address: '%a%'}]}]\n";
    let line = json!({"time": 1_794_832_496, "a": hostile}).to_string() + "\n";
    let dir = dir(&[("map.yaml", map), ("access.log", &line.repeat(4))]);
    let arguments = [
        "--rules",
        "rules.yaml",
        "--against",
        "rules.yaml",
        "--map",
        "map.yaml",
        "--html",
        "report.html",
        "access.log",
    ];
    assert_eq!(tollgate(dir.path(), &arguments, b"").status.code(), Some(0));
    let html = fs::read_to_string(dir.path().join("report.html")).expect("a page");
    assert!(html.contains("&lt;script&gt;alert(1)") && !html.contains("<script"), "{html}");
    for text in ["http", "src=", "url(", "@import", "<link"] {
        assert!(!html.contains(text), "{text} in the page");
    }
}
