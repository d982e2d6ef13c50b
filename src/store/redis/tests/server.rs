//! One connection of a scripted node: it carries out commands, and misbehaves by the seed.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use super::commands::execute;
use super::resp;
use super::world::{SENTINEL, State, World};
use crate::store::redis::reply::Reply;

/// Fault of a connection at a command.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// It ends, and the command is not carried out.
    ResetBefore,
    /// It is carried out, and the connection ends before the reply.
    ResetAfter,
    /// It is carried out, and the connection ends within the reply.
    PartialReply,
    /// It is carried out, and there is no reply to this and all later commands, which are read.
    Silence,
    /// It is carried out, and there is no reply; later commands are neither read nor carried out.
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
pub(super) async fn serve(
    world: World,
    node: usize,
    generation: u64,
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
) {
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
async fn swallow(mut stream: impl AsyncRead + Unpin, world: &World, node: usize, mut inbox: BytesMut) {
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
