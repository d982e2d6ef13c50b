//! A server that speaks the protocol of Redis and answers by a script: a Sentinel that lies, is slow, or hangs.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time;
use tokio_util::task::AbortOnDropHandle;
use tollgate::store::redis::Endpoint;

use super::server::HOST;

/// The reply to a command.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// The bytes as they are.
    Bytes(Vec<u8>),
    /// The bytes, after this delay.
    Late(Duration, Vec<u8>),
    /// No reply to this command or any later one on its connection.
    Never,
}

type Script = Arc<dyn Fn(&[String]) -> Reply + Send + Sync>;

/// The server, on a free port. It ends when dropped.
pub(crate) struct Scripted {
    port: u16,
    script: watch::Sender<Script>,
    commands: watch::Receiver<usize>,
    _task: AbortOnDropHandle<()>,
}

impl Scripted {
    /// A server that answers commands as `script` says. It agrees to what clients send when they connect.
    pub(crate) async fn start(script: impl Fn(&[String]) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((HOST, 0)).await.expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        let (script, scripts) = watch::channel(Arc::new(script) as Script);
        let (count, commands) = watch::channel(0);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(serve(stream, scripts.clone(), count.clone()));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, script, commands, _task: AbortOnDropHandle::new(task) }
    }

    /// A Sentinel that names the server at this port as the primary.
    pub(crate) async fn sentinel(primary: u16) -> Self {
        Self::start(names(primary)).await
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint::Tcp { host: HOST.to_owned(), port: self.port }
    }

    /// Changes the script, for open and future connections.
    pub(crate) fn answer(&self, script: impl Fn(&[String]) -> Reply + Send + Sync + 'static) {
        self.script.send_replace(Arc::new(script));
    }

    /// Waits for this many more commands.
    pub(crate) async fn is_asked(&self, times: usize) {
        let mut commands = self.commands.clone();
        let asked = *commands.borrow() + times;
        let waited = time::timeout(crate::support::PATIENCE, commands.wait_for(|now| *now >= asked)).await;
        waited.expect("it is asked before long").expect("it runs");
    }
}

/// A Sentinel's script: names the server at this port as the primary.
pub(crate) fn names(primary: u16) -> impl Fn(&[String]) -> Reply {
    move |_| Reply::Bytes(address(primary))
}

/// A Sentinel's script: names the server at this port as the primary, after `delay`.
pub(crate) fn names_late(primary: u16, delay: Duration) -> impl Fn(&[String]) -> Reply {
    move |_| Reply::Late(delay, address(primary))
}

/// A script that never answers.
pub(crate) fn hangs(_: &[String]) -> Reply {
    Reply::Never
}

fn address(port: u16) -> Vec<u8> {
    let port = port.to_string();
    format!("*2\r\n${}\r\n{HOST}\r\n${}\r\n{port}\r\n", HOST.len(), port.len()).into_bytes()
}

async fn serve(
    stream: TcpStream,
    scripts: watch::Receiver<Script>,
    count: watch::Sender<usize>,
) -> Option<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let command = read_command(&mut read).await?;
        let name = command.first()?.to_ascii_uppercase();
        let reply = if ["CLIENT", "AUTH", "SELECT", "INFO", "PING"].contains(&name.as_str()) {
            Reply::Bytes(b"+OK\r\n".to_vec())
        } else {
            count.send_modify(|count| *count += 1);
            let script = Arc::clone(&scripts.borrow());
            script(&command)
        };
        match reply {
            Reply::Bytes(bytes) => write.write_all(&bytes).await.ok()?,
            Reply::Late(delay, bytes) => {
                time::sleep(delay).await;
                write.write_all(&bytes).await.ok()?;
            }
            Reply::Never => std::future::pending().await,
        }
    }
}

/// An array of bulk strings; `None` at the end of the stream.
async fn read_command(read: &mut (impl AsyncBufReadExt + Unpin)) -> Option<Vec<String>> {
    let len = read_length(read, '*').await?;
    let mut command = Vec::with_capacity(len);
    for _ in 0..len {
        let mut word = vec![0; read_length(read, '$').await? + 2];
        read.read_exact(&mut word).await.ok()?;
        word.truncate(word.len() - 2);
        command.push(String::from_utf8_lossy(&word).into_owned());
    }
    Some(command)
}

async fn read_length(read: &mut (impl AsyncBufReadExt + Unpin), mark: char) -> Option<usize> {
    let mut line = String::new();
    read.read_line(&mut line).await.ok()?;
    line.trim_end().strip_prefix(mark)?.parse().ok()
}
