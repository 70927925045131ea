use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::*;

/// An MLflow whose answer to everything has so many bytes.
async fn mlflow(size: usize) -> Upstream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio_util::task::TaskTracker::new().spawn(async move {
        loop {
            let (mut tcp, _) = listener.accept().await.unwrap();
            tcp.read_buf(&mut Vec::with_capacity(4096)).await.unwrap();
            let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {size}\r\n\r\n");
            let _ = tcp.write_all(head.as_bytes()).await;
            let _ = tcp.write_all(&vec![b'x'; size]).await;
        }
    });
    let config = config::Upstream {
        url: format!("http://{address}").parse().unwrap(),
        hold: Duration::ZERO,
        ..config::defaults().unwrap().upstream
    };
    Upstream::new(&config).unwrap()
}

#[tokio::test]
async fn large_answers_to_lookups_share_a_bounded_memory() {
    const LARGE: usize = 40 * 1024 * 1024;
    let upstream = mlflow(LARGE).await;
    let all = upstream.large.available_permits();
    let first = upstream.lookup("/a".to_owned()).await.unwrap().unwrap();
    assert_eq!((first.len(), upstream.large.available_permits()), (LARGE, all - LARGE / UNIT_BYTES));
    let mut second = pin!(upstream.lookup("/b".to_owned()));
    tokio::select! {
        _ = second.as_mut() => panic!("two of them do not fit"),
        () = tokio::time::sleep(Duration::from_millis(200)) => {}
    }
    drop(first);
    drop(second.await.unwrap());
    assert_eq!(upstream.large.available_permits(), all);
}

#[tokio::test]
async fn small_answers_to_lookups_need_no_room_and_huge_ones_are_refused() {
    let upstream = mlflow(SMALL_LOOKUP_BYTES).await;
    let all = upstream.large.available_permits();
    let found = upstream.lookup("/a".to_owned()).await.unwrap().unwrap();
    assert_eq!((found.len(), upstream.large.available_permits()), (SMALL_LOOKUP_BYTES, all));
    let upstream = mlflow(LOOKUP_BYTES + 1).await;
    let refused = upstream.lookup("/a".to_owned()).await;
    assert!(matches!(refused, Err(Error::Unreadable(ReadError::TooLarge { limit: LOOKUP_BYTES }))), "{refused:?}");
}
