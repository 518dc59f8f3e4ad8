use std::io::{Read, Write};
use std::net::TcpListener;

use object_store::PutPayload;

use super::*;

/// A server that reads until the empty line and the body's length, and answers what it is told.
fn answers(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = [0; 4096];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(answer);
        }
    });
    format!("http://127.0.0.1:{port}/")
}

fn http(stall: Duration) -> Http {
    Http::new(&HttpSettings { stall_timeout: stall, ..HttpSettings::default() }).expect("a client")
}

async fn get(uri: &str) -> Result<bytes::Bytes, RequestError> {
    let request = http::Request::get(uri).body(Vec::new().into()).expect("a request");
    Http::read(http(Duration::from_millis(400)).send(request).await?, 1000).await
}

#[tokio::test]
async fn a_refusal_keeps_its_code_its_sentence_and_its_wish_to_wait() {
    let body = "<?xml version=\"1.0\"?><Error><Code>SlowDown</Code><Message>Reduce &lt;rate&gt;\nRequestId:1</Message></Error>";
    let text = format!("HTTP/1.1 503 Busy\r\nretry-after: 7\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let Err(RequestError::Answer(answer)) = get(&answers(text.leak().as_bytes())).await else { panic!("refused") };
    assert_eq!((answer.status, answer.code.as_str(), answer.message.as_str()), (503, "SlowDown", "Reduce <rate>"));
    assert_eq!(answer.retry_after, Some(Duration::from_secs(7)));
    assert!(answer.is_transient());
}

#[tokio::test]
async fn a_time_to_come_back_is_counted_by_the_servers_clock() {
    let text = b"HTTP/1.1 429 Busy\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\nretry-after: Sun, 06 Nov 1994 08:50:07 GMT\r\ncontent-length: 0\r\n\r\n";
    let Err(RequestError::Answer(answer)) = get(&answers(text)).await else { panic!("refused") };
    assert_eq!(answer.retry_after, Some(Duration::from_secs(30)));
}

#[tokio::test]
async fn half_an_answer_is_no_answer() {
    let cut = get(&answers(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf")).await;
    assert!(matches!(cut, Err(RequestError::Broken(_))), "{cut:?}");
    let long = get(&answers(b"HTTP/1.1 200 OK\r\ncontent-length: 1001\r\n\r\n")).await;
    assert!(matches!(long, Err(RequestError::TooLarge { most: 1000 })), "{long:?}");
}

#[tokio::test]
async fn an_answer_that_stops_coming_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let uri = format!("http://127.0.0.1:{}/", listener.local_addr().expect("an address").port());
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let _ = stream.read(&mut [0; 4096]);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf");
        std::thread::park();
    });
    let stalled = get(&uri).await;
    assert!(matches!(stalled, Err(RequestError::Stalled(_))), "{stalled:?}");
}

#[tokio::test]
async fn a_slow_upload_goes_on_as_long_as_something_moves() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let uri = format!("http://127.0.0.1:{}/", listener.local_addr().expect("an address").port());
    let whole = 48 << 20;
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("a connection");
        let mut read = 0;
        let mut part = vec![0; 1 << 20];
        while read < whole {
            read += stream.read(&mut part).expect("more");
            // 48 parts of a megabyte and more take longer than nothing may move.
            std::thread::sleep(Duration::from_millis(15));
        }
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    });
    let slices = std::iter::repeat_n(bytes::Bytes::from(vec![0; 1 << 18]), whole >> 18);
    let request = http::Request::put(uri).body(slices.collect::<PutPayload>().into()).expect("a request");
    let started = tokio::time::Instant::now();
    http(Duration::from_millis(400)).send(request).await.expect("it arrives");
    assert!(started.elapsed() > Duration::from_millis(500), "it took {:?}, too short to tell", started.elapsed());
}
