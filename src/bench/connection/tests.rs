use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::task::LocalSet;

use super::*;
use crate::pb::{DescriptorStatus, RateLimitResponse};

fn frame(message: &[u8]) -> Bytes {
    let len = u32::try_from(message.len()).expect("short");
    [&[0][..], &len.to_be_bytes(), message].concat().into()
}

#[test]
fn of_an_answer_the_overall_code_is_read() {
    let answer = |code: pb::Code| RateLimitResponse {
        overall_code: code.into(),
        statuses: vec![DescriptorStatus { limit_remaining: 9, ..DescriptorStatus::default() }],
        raw_body: Bytes::from("a body"),
        ..RateLimitResponse::default()
    };
    for code in [pb::Code::Unknown, pb::Code::Ok, pb::Code::OverLimit] {
        assert_eq!(decode(frame(&answer(code).encode_to_vec())), Some(code as i32));
    }
}

#[test]
fn invalid_responses_are_errors() {
    let whole = frame(&[8, 1]);
    assert_eq!(decode(whole.clone()), Some(1));
    let compressed = [&[1][..], &whole[1..]].concat();
    for bytes in [&[][..], &whole[..3], &whole[..6], &[&whole[..], &[0]].concat(), &compressed] {
        assert_eq!(decode(Bytes::copy_from_slice(bytes)), None, "{bytes:?}");
    }
    assert_eq!(decode(frame(&[8])), None);
}

#[test]
fn a_status_is_reported_with_its_message() {
    let headers = |pairs: &[(&'static str, &'static str)]| {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().expect("a name"), value.parse().expect("a value")))
            .collect::<HeaderMap>()
    };
    assert_eq!(status(&headers(&[("x", "y")])), None);
    assert_eq!(status(&headers(&[("grpc-status", "0")])), Some(Ok(())));
    let failed = status(&headers(&[("grpc-status", "14"), ("grpc-message", "no%20store")]));
    assert_eq!(failed, Some(Err(Failure::new(Code::Unavailable, "no store"))));
    let failed = status(&headers(&[("grpc-status", "4")]));
    assert_eq!(failed, Some(Err(Failure::new(Code::DeadlineExceeded, ""))));
}

/// Error of a connection to `listener`.
async fn connect_error(listener: &str) -> String {
    let target = format!("unix:{listener}").parse().expect("a path");
    let open = Connection::open(target, None, Duration::from_secs(1));
    let error = LocalSet::new().run_until(open).await.err().expect("it is no service");
    format!("{error:#}")
}

#[tokio::test(start_paused = true)]
async fn a_silent_server_is_not_reported_as_another_protocol() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("silent.sock");
    let _listener = UnixListener::bind(&path).expect("a socket");
    let error = connect_error(path.to_str().expect("text")).await;
    assert!(error.contains("accepted the connection and did not answer within 5s"), "{error}");
}

#[tokio::test]
async fn other_protocols_are_reported_as_not_grpc() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("http.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    let answer = async {
        let (mut socket, _) = listener.accept().await.expect("a client connects");
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.expect("it is read");
        std::future::pending::<()>().await;
    };
    let error = tokio::select! {
        error = connect_error(path.to_str().expect("text")) => error,
        () = answer => unreachable!("the server never ends"),
    };
    assert!(error.contains("does not speak gRPC"), "{error}");
}
