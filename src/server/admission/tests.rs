use futures_util::{FutureExt as _, StreamExt as _, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use super::*;

type Chunks = UnboundedSender<Bytes>;

/// A body that a test sends chunk by chunk.
fn body() -> (Chunks, impl Body<Data = Bytes, Error = std::convert::Infallible> + Unpin) {
    let (sender, receiver) = unbounded_channel();
    let next = |mut receiver: UnboundedReceiver<Bytes>| async move {
        let chunk = receiver.recv().await?;
        Some((Ok(Frame::data(chunk)), receiver))
    };
    (sender, StreamBody::new(stream::unfold(receiver, next).boxed()))
}

fn admission(max_bytes: usize, max_in_flight: usize) -> Admission {
    let settings = BodySettings { max_unfinished_bytes: max_bytes, ..BodySettings::default() };
    Admission::new(Arc::new(UnfinishedBodies::new(1, settings)), 0, max_in_flight)
}

#[tokio::test]
async fn a_body_in_one_chunk_is_not_copied_and_touches_nothing_shared() {
    let admission = admission(0, 1);
    let (chunks, mut body) = body();
    let chunk = Bytes::from_static(b"a whole body");
    chunks.send(chunk.clone()).unwrap();
    drop(chunks);
    let received = admission.receive(&mut body, 100, |_| true).await.unwrap();
    assert_eq!((received.as_ptr(), received.len()), (chunk.as_ptr(), chunk.len()));
    assert_eq!(admission.bodies.cores[0].lock().next_id, 0);
}

#[tokio::test]
async fn a_body_in_pieces_is_put_together_up_to_the_bound() {
    let admission = admission(1_000, 1);
    for (max, expected) in [(6, Some(&b"abcdef"[..])), (5, None)] {
        let (chunks, mut body) = body();
        let mut receiving = std::pin::pin!(admission.receive(&mut body, max, |_| true));
        for chunk in ["ab", "cd", "ef"] {
            assert!(receiving.as_mut().now_or_never().is_none());
            chunks.send(Bytes::from_static(chunk.as_bytes())).unwrap();
        }
        drop(chunks);
        assert_eq!(receiving.await.ok().as_deref(), expected);
        assert_eq!(admission.bodies.bytes.load(Ordering::Relaxed), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_bound_in_bytes_the_oldest_body_is_dropped() {
    let admission = admission(100, 10);
    let (mut senders, mut bodies): (Vec<_>, Vec<_>) = (0..3).map(|_| body()).unzip();
    let mut receiving: Vec<_> = Vec::new();
    for (chunks, body) in senders.iter().zip(&mut bodies) {
        let mut one = Box::pin(admission.receive(body, 1_000, |_| true));
        assert!(one.as_mut().now_or_never().is_none());
        tokio::time::advance(Duration::from_millis(1)).await;
        chunks.send(Bytes::from(vec![0; 40])).unwrap();
        assert!(one.as_mut().now_or_never().is_none());
        receiving.push(one);
    }
    let mut outcomes = receiving.into_iter();
    assert!(matches!(outcomes.next().unwrap().await, Err(BodyError::Displaced)));
    senders.clear();
    for one in outcomes {
        assert_eq!(one.await.unwrap().len(), 40);
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_bound_in_requests_an_incomplete_one_is_dropped_for_a_new_one() {
    let admission = admission(100, 1);
    let (_chunks, mut body) = body();
    let first = admission.admit().unwrap();
    assert!(admission.admit().is_err(), "the first has arrived");
    let mut receiving = std::pin::pin!(admission.receive(&mut body, 100, |_| true));
    assert!(receiving.as_mut().now_or_never().is_none());
    assert!(admission.admit().is_ok());
    assert!(matches!(receiving.await, Err(BodyError::Displaced)));
    assert_eq!((admission.bodies.displaced(), admission.bodies.timed_out()), (1, 0));
    drop(first);
    assert_eq!(admission.in_flight.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_body_has_its_time_however_much_of_it_comes() {
    let admission = admission(1_000, 1);
    let (chunks, mut body) = body();
    let mut receiving = std::pin::pin!(admission.receive(&mut body, 100, |_| true));
    for _ in 0..5 {
        chunks.send(Bytes::from_static(b"x")).unwrap();
        assert!(receiving.as_mut().now_or_never().is_none());
        admission.bodies.expire(Instant::now());
        tokio::time::advance(Duration::from_secs(1)).await;
    }
    admission.bodies.expire(Instant::now());
    assert!(matches!(receiving.await, Err(BodyError::TimedOut)));
    assert_eq!((admission.bodies.displaced(), admission.bodies.timed_out()), (0, 1));
}
