//! The client's end of a scripted connection: sends and loses commands as fred does, over bytes in memory.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use fred::types::Value;
use tokio::io::{AsyncRead as _, AsyncWrite as _, DuplexStream, ReadBuf};

use super::world::World;
use super::{resp, script};
use crate::store::redis::reply::Reply;
use crate::store::redis::wire::{Command, Wire};

const READ_BYTES: usize = 1_024;

pub(super) struct ScriptedWire {
    stream: DuplexStream,
    world: World,
    /// Not written yet.
    out: BytesMut,
    /// Bytes that were ever appended to `out`, and where each command in flight ends in them.
    appended: u64,
    in_flight: VecDeque<u64>,
    inbox: BytesMut,
    /// Written, and not looked at yet.
    written: BytesMut,
    ended: Option<Arc<str>>,
}

impl ScriptedWire {
    pub(super) fn new(stream: DuplexStream, world: World) -> Self {
        Self {
            stream,
            world,
            out: BytesMut::new(),
            appended: 0,
            in_flight: VecDeque::new(),
            inbox: BytesMut::new(),
            written: BytesMut::new(),
            ended: None,
        }
    }

    /// Writes as far as there is room, and reads until a reply is complete.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Reply, Arc<str>>> {
        loop {
            while !self.out.is_empty() {
                match Pin::new(&mut self.stream).poll_write(context, &self.out) {
                    Poll::Ready(Ok(len @ 1..)) => {
                        self.written.extend_from_slice(&self.out.split_to(len));
                        self.check();
                    }
                    Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Err("closed".into())),
                    Poll::Pending => break,
                }
            }
            match resp::decode(&self.inbox) {
                Ok(Some((reply, len))) => {
                    self.inbox.advance(len);
                    return Poll::Ready(Ok(reply));
                }
                Ok(None) => {}
                Err(error) => return Poll::Ready(Err(error.to_string().into())),
            }
            let mut room = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut room);
            if ready!(Pin::new(&mut self.stream).poll_read(context, &mut read)).is_err()
                || read.filled().is_empty()
            {
                return Poll::Ready(Err("closed".into()));
            }
            self.inbox.extend_from_slice(read.filled());
        }
    }

    /// Nothing may be written for a caller that was answered.
    fn check(&mut self) {
        while let Ok(Some((command, len))) = resp::decode(&self.written) {
            self.written.advance(len);
            let words: Vec<Bytes> = command.into_items().into_iter().filter_map(text).collect();
            let keys: Vec<Bytes> = match words.first().map(|name| &name[..]) {
                Some(b"INCRBY") => vec![words[1].clone()],
                // A refund is sent when the caller has its answer.
                Some(b"EVALSHA" | b"EVAL") => {
                    let charges = script::charges(&words).filter(|charge| !charge.is_refund());
                    charges.map(|charge| charge.key).collect()
                }
                _ => continue,
            };
            let mut state = self.world.lock();
            for key in keys {
                if state.answered.get(&key) == Some(&true) {
                    state.violations.push(format!("{key:?} was sent after its caller was answered"));
                }
            }
        }
    }
}

impl Wire for ScriptedWire {
    fn send(&mut self, command: Command) {
        let before = self.out.len();
        let words = words(command);
        resp::begin(&mut self.out, words.len());
        for word in words {
            resp::push(&mut self.out, &word);
        }
        self.appended += (self.out.len() - before) as u64;
        self.in_flight.push_back(self.appended);
    }

    fn poll_reply(&mut self, context: &mut Context<'_>) -> Poll<Result<Reply, Arc<str>>> {
        if let Some(cause) = &self.ended {
            return Poll::Ready(Err(Arc::clone(cause)));
        }
        let reply = ready!(self.poll_next(context));
        match &reply {
            Ok(reply) => {
                // As in fred: the connection ends after this reply.
                if matches!(reply, Reply::Error(text) if text.starts_with("CLUSTERDOWN")) {
                    self.ended = Some("CLUSTERDOWN".into());
                }
                self.in_flight.pop_front();
            }
            Err(cause) => self.ended = Some(Arc::clone(cause)),
        }
        Poll::Ready(reply)
    }

    fn next_lost(&mut self) -> Option<bool> {
        let written_bytes = self.appended - self.out.len() as u64;
        self.in_flight.pop_front().map(|end| end <= written_bytes)
    }

    fn has_unwritten(&self) -> bool {
        !self.out.is_empty()
    }
}

fn text(reply: Reply) -> Option<Bytes> {
    if let Reply::Text(text) = reply { Some(text) } else { None }
}

fn words(command: Command) -> Vec<Bytes> {
    let text = |text: &'static str| Bytes::from_static(text.as_bytes());
    let number = |number: i64| Bytes::from(number.to_string());
    match command {
        Command::Increment { key, hits } => vec![text("INCRBY"), key, number(hits)],
        Command::Read(key) => vec![text("GET"), key],
        Command::Create { key, secs } => {
            vec![text("SET"), key, text("0"), text("EX"), number(secs), text("NX")]
        }
        Command::Expire { key, secs } => vec![text("EXPIRE"), key, number(secs)],
        Command::Other { name, arguments } => {
            let name = Bytes::copy_from_slice(name.cmd.as_bytes());
            std::iter::once(name).chain(arguments.into_iter().map(bytes)).collect()
        }
    }
}

fn bytes(value: Value) -> Bytes {
    match value {
        Value::Integer(number) => number.to_string().into(),
        Value::Bytes(bytes) => bytes,
        Value::String(text) => Bytes::copy_from_slice(text.as_bytes()),
        other => panic!("no argument of a command: {other:?}"),
    }
}
