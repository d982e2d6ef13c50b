//! Counts of holds and places in metrics, for each rule, on both stores.

use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::admin_holds::{RULES, Replica};
use crate::support::eventually;

#[tokio::test]
async fn holds_and_places_are_counted_for_each_rule() {
    for replica in Replica::each().await {
        let ticket = replica.reserve(300).await;
        replica.reserve(600).await;
        let (status, _) = replica.post("/v1/reserve", json!({ "user": "a" }), json!({ "amount": 101 })).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        for _ in 0..2 {
            replica.settle(&ticket, json!({ "amount": 10 })).await;
        }
        replica.settle(&json!("-"), json!({ "amount": 10 })).await;
        let place = replica.acquire().await.expect("a place");
        assert!(replica.acquire().await.is_some() && replica.acquire().await.is_some());
        assert!(replica.acquire().await.is_none());
        replica.post("/v1/release", json!({ "tenant": "a" }), json!({ "ticket": place })).await;
        replica.service.write_rules("ai.yaml", &RULES.replace("hour", "day"));
        let metrics = async || {
            let answer = reqwest::get(replica.service.debug_url("/metrics")).await.expect("an answer");
            answer.text().await.expect("text")
        };
        eventually("the rules are read again", async || {
            metrics().await.contains("ratelimit_service_config_load_success 2\n")
        })
        .await;
        let metrics = metrics().await;
        for (rule, counts) in [("ai.user", [2, 1, 1, 1, 1, 0]), ("ai.tenant", [3, 1, 1, 0, 0, 0])] {
            let events = ["opened", "denied", "settled", "late", "repeated", "expired"];
            for (event, count) in events.into_iter().zip(counts) {
                let line = format!(
                    "tollgate_rule_holds{{domain=\"ai\",rule=\"{rule}\",event=\"{event}\"}} {count}\n"
                );
                assert!(metrics.contains(&line), "{line}{metrics}");
            }
        }
        assert!(!metrics.contains("rule=\"ai.bucket\""), "it holds nothing");
    }
}

#[tokio::test]
async fn a_repeated_reservation_is_counted_once_and_a_raise_that_does_not_fit_as_denied() {
    for replica in Replica::each().await {
        let both = || json!({ "user": "a", "tenant": "a" });
        let mut ticket = Value::Null;
        for _ in 0..3 {
            let reserve = json!({ "amount": 300, "id": "one" });
            let (status, answer) = replica.post("/v1/reserve", both(), reserve).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            ticket = answer["ticket"].clone();
        }
        replica.reserve(600).await;
        let raise = json!({ "ticket": ticket, "amount": 500 });
        let (status, _) = replica.post("/v1/extend", json!({ "user": "a" }), raise).await;
        assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
        let answer = reqwest::get(replica.service.debug_url("/metrics")).await.expect("an answer");
        let metrics = answer.text().await.expect("text");
        for line in [
            "tollgate_rule_holds{domain=\"ai\",rule=\"ai.tenant\",event=\"opened\"} 1\n",
            "tollgate_rule_holds{domain=\"ai\",rule=\"ai.user\",event=\"opened\"} 2\n",
            "tollgate_rule_holds{domain=\"ai\",rule=\"ai.user\",event=\"denied\"} 1\n",
            "tollgate_holds{event=\"denied\"} 1\n",
            "tollgate_tickets{event=\"acquired\"} 1\n",
        ] {
            assert!(metrics.contains(line), "{line}{metrics}");
        }
    }
}

/// Holds and places that end by themselves are found when their key is used next, whatever uses it.
#[tokio::test]
async fn what_ends_by_itself_is_counted_once() {
    for replica in Replica::each().await {
        let series =
            |rule: &str| format!("tollgate_rule_holds{{domain=\"ai\",rule=\"{rule}\",event=\"expired\"}} ");
        let expired = async |rule: &str| {
            let answer = reqwest::get(replica.service.debug_url("/metrics")).await.expect("an answer");
            let metrics = answer.text().await.expect("text");
            let count = metrics.lines().find_map(|line| line.strip_prefix(&series(rule)));
            count.expect("a count").parse::<u32>().expect("a number")
        };
        let brief = json!({ "ttl": "1s" });
        let post = async |path: &str, entries: Value, more: Value| {
            let (status, answer) = replica.post(path, entries, more).await;
            assert_eq!(status, StatusCode::OK, "{answer}");
            answer["ticket"].clone()
        };

        post("/v1/reserve", json!({ "user": "a" }), brief.clone()).await;
        eventually("a hold is found to have ended", async || {
            let ticket = replica.reserve(1).await;
            replica.settle(&ticket, json!({ "amount": 0 })).await;
            expired("ai.user").await == 1
        })
        .await;
        // A look at a key is a use, too.
        post("/v1/reserve", json!({ "user": "a" }), brief.clone()).await;
        eventually("a look finds it", async || {
            let answer = reqwest::get(replica.service.url("/v1/usage?domain=ai&user=a")).await;
            assert_eq!(answer.expect("an answer").status(), StatusCode::OK);
            expired("ai.user").await == 2
        })
        .await;
        post("/v1/reserve", json!({ "user": "a" }), brief.clone()).await;
        eventually("so does one of an operator", async || {
            replica.level("user").await;
            expired("ai.user").await == 3
        })
        .await;

        // Two places under one ticket, and its key kept by a longer one.
        let (tenant, two) = (|| json!({ "tenant": "a" }), json!({ "ttl": "1s", "weight": 2 }));
        post("/v1/acquire", tenant(), two).await;
        eventually("a ticket is found to have ended", async || {
            if let Some(ticket) = replica.acquire().await {
                post("/v1/release", tenant(), json!({ "ticket": ticket })).await;
            }
            expired("ai.tenant").await == 1
        })
        .await;
        // A ticket that comes too late gives nothing back.
        replica.acquire().await.expect("a place");
        let late = post("/v1/acquire", tenant(), brief.clone()).await;
        eventually("its place has ended", async || replica.level("tenant").await.0["places"]["taken"] == 1)
            .await;
        assert_eq!(expired("ai.tenant").await, 1, "a look does not drop it");
        let (_, answer) = replica.post("/v1/release", tenant(), json!({ "ticket": late })).await;
        assert_eq!((answer, expired("ai.tenant").await), (json!({ "released": false }), 2));
        let (_, answer) = replica.post("/v1/release", tenant(), json!({ "ticket": late })).await;
        assert_eq!((answer, expired("ai.tenant").await), (json!({ "released": false }), 2), "once");
    }
}

#[tokio::test]
async fn a_named_reservation_that_finds_an_ended_ticket_says_how_long_its_own_lives() {
    for replica in Replica::each().await {
        replica.acquire().await.expect("a place that keeps the key");
        let brief = json!({ "ttl": "1s" });
        let (status, answer) = replica.post("/v1/acquire", json!({ "tenant": "a" }), brief).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        let is_over = async || replica.level("tenant").await.0["places"]["taken"] == 1;
        eventually("its place has ended", is_over).await;
        let both = json!({ "user": "a", "tenant": "a" });
        let (status, answer) = replica.post("/v1/reserve", both, json!({ "amount": 1, "id": "one" })).await;
        assert_eq!((status, &answer["expiresIn"]), (StatusCode::OK, &json!(120)), "{answer}");
    }
}
