//! Commands of a scripted node, as Redis carries them out.

use bytes::Bytes;

use super::script;
use super::world::{Counter, Kind, SENTINEL, SLOTS, State, endpoint, port};
use crate::store::redis::reply::Reply;
use crate::store::redis::script::sha1;

fn text(text: &str) -> Reply {
    Reply::Text(Bytes::copy_from_slice(text.as_bytes()))
}

fn error(text: &str) -> Reply {
    Reply::Error(text.to_owned())
}

/// Carries out a command, and returns the reply.
pub(super) fn execute(state: &mut State, node: usize, words: &[Bytes], asking: &mut bool) -> Reply {
    let word = |index: usize| words.get(index).and_then(|word| std::str::from_utf8(word).ok()).unwrap_or("");
    let was_asking = std::mem::take(asking);
    if node >= SENTINEL {
        let address = || Reply::Array(vec![text("node"), text(&port(state.primary).to_string())]);
        return if word(0) == "SENTINEL" { address() } else { text("OK") };
    }
    let keys = match word(0) {
        "SET" | "GET" | "INCRBY" | "EXPIRE" => &words[1..2],
        "EVALSHA" | "EVAL" if word(2) != "0" => script::keys(words),
        _ => return about_itself(state, node, &[word(0), word(1)], asking),
    };
    if keys[0].starts_with(b"tollgate:") {
        return error("ERR value is not an integer or out of range");
    }
    if state.kind == Kind::Cluster
        && let Some(redirection) = redirection(state, node, keys, was_asking)
    {
        return error(&redirection);
    }
    if state.kind == Kind::Sentinel && node != state.primary && word(0) != "GET" {
        return error("READONLY You can't write against a read only replica.");
    }
    let key = keys[0].clone();
    match word(0) {
        "GET" => match state.nodes[node].counters.get(&key) {
            Some(counter) => text(&counter.value.to_string()),
            None => Reply::Nil,
        },
        "SET" if state.nodes[node].counters.contains_key(&key) => Reply::Nil,
        "SET" => {
            assert_eq!((word(2), word(3), word(5)), ("0", "EX", "NX"));
            state.nodes[node].counters.insert(key, Counter { value: 0, has_ttl: true });
            text("OK")
        }
        "EXPIRE" if state.refuses_expire => {
            error("NOPERM this user has no permissions to run the 'expire' command")
        }
        "EXPIRE" => match state.nodes[node].counters.get_mut(&key) {
            Some(counter) => {
                counter.has_ttl = true;
                Reply::Int(1)
            }
            None => Reply::Int(0),
        },
        "INCRBY" => {
            let hits: i64 = word(2).parse().expect("hits");
            state.evict_before_write(node, &key);
            *state.executed.entry(key.clone()).or_default() += u64::try_from(hits).expect("hits");
            let is_new = !state.nodes[node].counters.contains_key(&key);
            if is_new {
                state.born_without_ttl.push(key.clone());
            }
            let counter =
                state.nodes[node].counters.entry(key).or_insert(Counter { value: 0, has_ttl: false });
            counter.value += hits;
            Reply::Int(counter.value)
        }
        "EVALSHA" if !state.nodes[node].scripts.contains(&words[1]) => error("NOSCRIPT No matching script."),
        name => {
            if name == "EVAL" {
                state.nodes[node].scripts.insert(sha1(&words[1]));
            }
            script::run(state, node, words)
        }
    }
}

/// Redirection of a command for `keys` in a Cluster; `None` if this node carries it out.
fn redirection(state: &State, node: usize, keys: &[Bytes], asking: bool) -> Option<String> {
    let slot = redis_protocol::redis_keyslot(&keys[0]);
    assert!(keys.iter().all(|key| redis_protocol::redis_keyslot(key) == slot), "keys of one slot");
    let range = usize::from(slot / 1_024);
    let (owner, target) = (state.owners[range], state.migrating.get(&range).copied());
    let is_here = |key: &Bytes| state.nodes[node].counters.contains_key(key);
    let missing = keys.iter().filter(|key| !is_here(key)).count();
    let try_again = || Some("TRYAGAIN Multiple keys request during rehashing of slot".to_owned());
    match target {
        Some(target) if node == owner && missing > 0 => match missing < keys.len() {
            true => try_again(),
            false => Some(format!("ASK {slot} node:{}", port(target))),
        },
        Some(target) if node == target && asking => {
            let is_torn = missing > 0 && keys.iter().any(|key| *key != keys[0]);
            if is_torn { try_again() } else { None }
        }
        _ if node == owner => None,
        _ => Some(format!("MOVED {slot} node:{}", port(owner))),
    }
}

/// Commands that no key is part of.
fn about_itself(state: &State, node: usize, words: &[&str; 2], asking: &mut bool) -> Reply {
    match *words {
        ["PING" | "SELECT" | "AUTH", _] => text("OK"),
        ["INFO", "memory"] if state.evicts => text("maxmemory:1000\r\nmaxmemory_policy:volatile-ttl\r\n"),
        ["INFO", "memory"] => text("maxmemory:0\r\nmaxmemory_policy:noeviction\r\n"),
        ["ASKING", _] => {
            *asking = true;
            text("OK")
        }
        ["HELLO", _] => error("ERR unknown command 'HELLO'"),
        ["ROLE", _] => Reply::Array(vec![text(if state.primary == node { "master" } else { "slave" })]),
        ["CLUSTER", "SLOTS"] => {
            let range = |(index, owner): (usize, &usize)| {
                let first = i64::try_from(index).expect("few") * 1_024;
                let id = format!("id{owner}");
                let primary = Reply::Array(vec![text("node"), Reply::Int(port(*owner).into()), text(&id)]);
                Reply::Array(vec![Reply::Int(first), Reply::Int(first + 1_023), primary])
            };
            assert_eq!(state.owners.len(), usize::from(SLOTS / 1_024));
            Reply::Array(state.owners.iter().enumerate().map(range).collect())
        }
        ["CLUSTER", "NODES"] => {
            let line = |(index, epoch): (usize, &u64)| {
                let flags = if index == node { "myself,master" } else { "master" };
                let crate::store::redis::Endpoint::Tcp { host, port } = endpoint(index) else {
                    unreachable!()
                };
                format!("id{index} {host}:{port}@1 {flags} - 0 0 {epoch} connected\n")
            };
            text(&state.epochs.iter().enumerate().map(line).collect::<String>())
        }
        _ => error("ERR wrong arguments"),
    }
}
