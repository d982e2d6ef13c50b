//! One connection of a scripted node: it carries out commands, and misbehaves by the seed.

use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

use super::resp;
use super::world::{Counter, Kind, SENTINEL, SLOTS, State, World, endpoint, port};
use crate::store::redis::reply::Reply;

/// Fault of a connection at a command.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It ends, and the command is not carried out.
    ResetBefore,
    /// It is carried out, and the connection ends before the reply.
    ResetAfter,
    /// The reply is torn apart by the end.
    PartialReply,
    /// It is carried out, and there is no reply to this and all later commands, which are read.
    Silence,
    /// The same, and nothing is read or carried out any more.
    Freeze,
    /// Bytes that are no reply follow.
    Garbage,
    /// The framing of the replies is broken: an endless string.
    Endless,
    /// The command is rejected.
    Rejected(&'static str),
    /// The reply takes its time.
    Late,
}

fn some_fault(state: &mut State) -> Fault {
    match state.random.u8(0..12) {
        0 => Fault::ResetBefore,
        1 => Fault::ResetAfter,
        2 => Fault::PartialReply,
        3 => Fault::Silence,
        4 => Fault::Freeze,
        5 => Fault::Garbage,
        6 => Fault::Endless,
        7 => Fault::Rejected("CLUSTERDOWN Hash slot not served"),
        8 => Fault::Rejected("LOADING Redis is loading the dataset in memory"),
        9 => Fault::Rejected("OOM command not allowed when used memory > 'maxmemory'."),
        _ => Fault::Late,
    }
}

async fn sleep(duration: Duration) {
    if !duration.is_zero() {
        tokio::time::sleep(duration).await;
    }
}

/// Serves one connection until it ends.
#[expect(clippy::too_many_lines, reason = "one fault after the other")]
pub(super) async fn serve(world: World, node: usize, generation: u64, mut stream: DuplexStream) {
    let mut inbox = BytesMut::new();
    let mut asking = false;
    loop {
        match stream.read_buf(&mut inbox).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
        let delay = world.lock().delay();
        sleep(delay).await;
        let mut replies = BytesMut::new();
        let mut late = Duration::ZERO;
        let mut end = false;
        while let Ok(Some((command, len))) = resp::decode(&inbox) {
            drop(inbox.split_to(len));
            let words: Vec<Bytes> = command
                .into_items()
                .into_iter()
                .map(|word| if let Reply::Text(word) = word { word } else { panic!("{word:?}") })
                .collect();
            let fault = {
                let mut state = world.lock();
                if node < SENTINEL && (state.nodes[node].generation != generation || state.nodes[node].down) {
                    return;
                }
                let fault = state.is_fault().then(|| some_fault(&mut state));
                if !matches!(fault, Some(Fault::ResetBefore | Fault::Rejected(_) | Fault::Freeze)) {
                    let reply = execute(&mut state, node, &words, &mut asking);
                    if matches!(fault, Some(Fault::PartialReply)) {
                        let mut torn = BytesMut::new();
                        write(&mut torn, &reply);
                        torn.truncate(torn.len() / 2);
                        replies.extend_from_slice(&torn);
                    } else if !matches!(fault, Some(Fault::ResetAfter | Fault::Silence)) {
                        write(&mut replies, &reply);
                    }
                }
                fault
            };
            match fault {
                None => continue,
                Some(Fault::Late) => {
                    late += Duration::from_millis(world.lock().random.u64(0..60));
                    continue;
                }
                Some(Fault::Rejected(error)) => {
                    write(&mut replies, &Reply::Error(error.to_owned()));
                    continue;
                }
                Some(Fault::Garbage) => replies.extend_from_slice(b"?!\r\n"),
                Some(Fault::Endless) => replies.extend_from_slice(b"$1000000000\r\n"),
                Some(Fault::Silence) => {
                    drop(stream.write_all(&replies).await);
                    return swallow(stream, &world, node, inbox).await;
                }
                Some(Fault::Freeze) => {
                    drop(stream.write_all(&replies).await);
                    return std::future::pending().await;
                }
                Some(Fault::ResetBefore | Fault::ResetAfter | Fault::PartialReply) => {}
            }
            end = true;
            break;
        }
        sleep(late).await;
        let (delay, split) = {
            let mut state = world.lock();
            (state.delay(), state.random.usize(0..=replies.len()))
        };
        let rest = replies.split_off(split);
        if stream.write_all(&replies).await.is_err() {
            return;
        }
        sleep(delay).await;
        if stream.write_all(&rest).await.is_err() || end {
            return;
        }
    }
}

/// Carries out commands, and never replies.
async fn swallow(mut stream: DuplexStream, world: &World, node: usize, mut inbox: BytesMut) {
    loop {
        while let Ok(Some((command, len))) = resp::decode(&inbox) {
            drop(inbox.split_to(len));
            let words: Vec<Bytes> = command
                .into_items()
                .into_iter()
                .filter_map(|word| if let Reply::Text(word) = word { Some(word) } else { None })
                .collect();
            execute(&mut world.lock(), node, &words, &mut false);
        }
        if !matches!(stream.read_buf(&mut inbox).await, Ok(1..)) {
            return;
        }
    }
}

fn write(out: &mut BytesMut, reply: &Reply) {
    match reply {
        Reply::Int(number) => out.extend_from_slice(format!(":{number}\r\n").as_bytes()),
        Reply::Text(text) => resp::push(out, text),
        Reply::Nil => out.extend_from_slice(b"$-1\r\n"),
        Reply::Error(text) => out.extend_from_slice(format!("-{text}\r\n").as_bytes()),
        Reply::Array(items) => {
            resp::begin(out, items.len());
            items.iter().for_each(|item| write(out, item));
        }
    }
}

fn text(text: &str) -> Reply {
    Reply::Text(Bytes::copy_from_slice(text.as_bytes()))
}

fn error(text: &str) -> Reply {
    Reply::Error(text.to_owned())
}

fn execute(state: &mut State, node: usize, words: &[Bytes], asking: &mut bool) -> Reply {
    let word = |index: usize| words.get(index).and_then(|word| std::str::from_utf8(word).ok()).unwrap_or("");
    let was_asking = std::mem::take(asking);
    if node >= SENTINEL {
        let address = || Reply::Array(vec![text("node"), text(&port(state.primary).to_string())]);
        return if word(0) == "SENTINEL" { address() } else { text("OK") };
    }
    let key = match word(0) {
        "SET" | "GET" | "INCRBY" | "EXPIRE" => &words[1],
        "EVALSHA" | "EVAL" if word(2) != "0" => &words[3],
        _ => return about_itself(state, node, &[word(0), word(1)], asking),
    };
    if key.starts_with(b"tollgate:") {
        return error("ERR value is not an integer or out of range");
    }
    let owner = state.owner(key);
    if state.kind == Kind::Cluster && owner != node && !was_asking {
        let slot = redis_protocol::redis_keyslot(key);
        return error(&format!("MOVED {slot} node:{}", port(owner)));
    }
    if state.kind == Kind::Sentinel && node != state.primary && word(0) != "GET" {
        return error("READONLY You can't write against a read only replica.");
    }
    let key = key.clone();
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
        "EXPIRE" => match state.nodes[node].counters.get_mut(&key) {
            Some(counter) => {
                counter.has_ttl = true;
                Reply::Int(1)
            }
            None => Reply::Int(0),
        },
        "INCRBY" => {
            let hits: i64 = word(2).parse().expect("hits");
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
        "EVALSHA" if !state.nodes[node].knows_script => error("NOSCRIPT No matching script."),
        _ => {
            state.nodes[node].knows_script = true;
            let count: usize = word(2).parse().expect("the number of keys");
            run_script(state, node, &words[3..3 + count], &words[3 + count])
        }
    }
}

/// Effect of `charge.lua` on requests of one charge each, in fixed windows and without lockouts.
fn run_script(state: &mut State, node: usize, keys: &[Bytes], requests: &Bytes) -> Reply {
    let mut requests = requests.clone();
    let mut reply = Vec::new();
    while requests.has_remaining() {
        assert_eq!(requests.get_u16(), 1, "one charge");
        let key = keys[usize::from(requests.get_u16()) - 1].clone();
        let (algorithm, kind) = (requests.get_u8(), requests.get_u8());
        requests.advance(1);
        let (hits, capacity) = (i64::from(requests.get_u32()), i64::from(requests.get_u32()));
        requests.advance(6);
        assert_eq!(algorithm, 0, "a fixed window");
        let used = state.nodes[node].counters.get(&key).map_or(0, |counter| counter.value);
        let charged = kind == 0 || used + hits.max(1) <= capacity;
        if charged && hits > 0 {
            *state.executed.entry(key.clone()).or_default() += u64::try_from(hits).expect("hits");
            let counter =
                state.nodes[node].counters.entry(key).or_insert(Counter { value: 0, has_ttl: true });
            counter.value += hits;
            counter.has_ttl = true;
        }
        let now = used + if charged { hits } else { 0 };
        reply.extend([i64::from(!charged), now, 0, 0].map(Reply::Int));
    }
    reply.push(Reply::Int(1));
    Reply::Array(reply)
}

/// Commands that no key is part of.
fn about_itself(state: &State, node: usize, words: &[&str; 2], asking: &mut bool) -> Reply {
    match *words {
        ["PING" | "SELECT" | "AUTH", _] => text("OK"),
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
