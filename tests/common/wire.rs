//! Bytes that are no message, messages from a newer client, and methods that are not there.

use bytes::{Buf, BufMut, Bytes};
use drumline_proto::v1;
use prost::Message;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::{Code, Status};

use super::services::services;
use super::{assert_well, get, put};
use crate::support::wait::soon;
use crate::support::{Stage, json, on_every_composition, reason_of};

/// Messages as they are on the wire.
#[derive(Clone, Copy, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Raw;
    type Decoder = Raw;

    fn encoder(&mut self) -> Raw {
        Raw
    }

    fn decoder(&mut self) -> Raw {
        Raw
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// Sends one message to a method of any kind, and gives its first answer.
async fn send(stage: &Stage, path: &str, message: Bytes) -> Result<Option<Bytes>, Status> {
    let mut client = tonic::client::Grpc::new(stage.channel.clone());
    client.ready().await.expect("the server listens");
    let path = PathAndQuery::try_from(path).expect("a path");
    let request = tonic::Request::new(tokio_stream::once(message));
    let answers = client.streaming(request, path, Raw).await?;
    answers.into_inner().message().await
}

/// Bytes that are no message of any method: each has one of the first fields, which are strings everywhere.
fn malformed() -> Vec<Bytes> {
    let deep = |levels: usize| {
        // Groups within groups.
        let mut bytes = vec![0x0b; levels];
        bytes.extend(vec![0x0c; levels]);
        bytes
    };
    let bytes: Vec<Vec<u8>> = vec![
        vec![0xff; 64],
        vec![0x0a],
        vec![0x0a, 0x05, b'a'],
        vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f],
        vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01],
        vec![0x0a, 0x02, 0xc3, 0x28],
        vec![0x0a, 0x03, 0xed, 0xa0, 0x80],
        vec![0x0e, 0x00],
        vec![0x00, 0x01],
        vec![0x9b, 0x3e, 0x08, 0x01],
        deep(200),
        deep(100_000),
    ];
    bytes.into_iter().map(Bytes::from).collect()
}

#[tokio::test]
async fn bytes_that_are_no_message_are_refused_by_every_method() {
    on_every_composition(|stage| async move {
        let mut tried = 0;
        for service in services() {
            for method in &service.method {
                let path = format!("/drumline.v1.{}/{}", service.name(), method.name());
                for bytes in malformed() {
                    let start = bytes.slice(..bytes.len().min(12));
                    let answer = soon("an answer", send(&stage, &path, bytes)).await;
                    let status = answer.expect_err(&format!("{path} took {start:?}"));
                    if status.code() == Code::Unimplemented {
                        continue;
                    }
                    assert_eq!(status.code(), Code::InvalidArgument, "{path} {start:?}: {status}");
                    assert_eq!(reason_of(&status), "INVALID_REQUEST", "{path} {start:?}: {status}");
                    tried += 1;
                }
            }
        }
        assert!(tried >= 100, "only {tried} answers");
        assert_well(&stage).await;
    })
    .await;
}

#[tokio::test]
async fn fields_from_the_future_are_passed_over() {
    on_every_composition(|stage| async move {
        let mut bytes = put(&stage, "doc", json("1")).encode_to_vec();
        prost::encoding::string::encode(999, &"from the future".to_owned(), &mut bytes);
        prost::encoding::uint64::encode(1_000, &u64::MAX, &mut bytes);
        prost::encoding::fixed32::encode(536_870_911, &7, &mut bytes);
        send(&stage, "/drumline.v1.StateService/PutState", bytes.into())
            .await
            .unwrap()
            .expect("an answer");
        assert_eq!(get(&stage, "doc").await.unwrap().version, 1);
    })
    .await;
}

#[tokio::test]
async fn a_method_that_is_not_there_is_unimplemented() {
    on_every_composition(|stage| async move {
        for path in [
            "/drumline.v1.StateService/Nothing",
            "/drumline.v1.NoService/GetState",
            "/drumline.v2.StateService/GetState",
            "/drumline.v1.StateService/GetState/more",
            "/",
        ] {
            let status = send(&stage, path, Bytes::new()).await.unwrap_err();
            assert_eq!(status.code(), Code::Unimplemented, "{path}: {status}");
        }
        // A call without a message, and one with two where one is expected.
        let path = PathAndQuery::from_static("/drumline.v1.StateService/GetState");
        for count in [0, 2] {
            let mut client = tonic::client::Grpc::new(stage.channel.clone());
            client.ready().await.unwrap();
            let messages = tokio_stream::iter(vec![Bytes::new(); count]);
            let answers = client.streaming(tonic::Request::new(messages), path.clone(), Raw).await;
            assert!(answers.is_err(), "{count} messages");
        }
        assert_well(&stage).await;
    })
    .await;
}

#[tokio::test]
async fn a_frame_that_is_too_large_ends_its_stream_with_a_reason_and_the_session_goes_on() {
    on_every_composition(|stage| async move {
        use v1::connect_hello::Session;
        use v1::connect_request::Frame;
        let frame = |frame| v1::ConnectRequest {
            request_number: 1,
            frame: Some(frame),
        };
        let hello = |session| frame(Frame::Hello(v1::ConnectHello { session: Some(session) }));
        let register = hello(Session::Register(v1::RegisterAgentRequest {
            namespace: stage.ns(),
            agent_id: "agent".into(),
            ..Default::default()
        }));
        let large = frame(Frame::CompleteTask(v1::CompleteTaskRequest {
            result: json(&format!("\"{}\"", "x".repeat(5 << 20))),
            ..Default::default()
        }));
        let mut answers = stage
            .sessions()
            .connect(tokio_stream::iter([register, large]))
            .await
            .unwrap()
            .into_inner();
        let welcome = soon("the welcome", answers.message()).await.unwrap().expect("a frame");
        let Some(v1::connect_response::Frame::Welcome(welcome)) = welcome.frame else {
            panic!("{welcome:?}");
        };
        let status = loop {
            match soon("the end of the stream", answers.message()).await {
                Ok(frame) => assert!(frame.is_some(), "the stream ended without a word"),
                Err(status) => break status,
            }
        };
        assert_eq!(reason_of(&status), "PAYLOAD_TOO_LARGE", "{status}");
        let resume = hello(Session::Resume(v1::ResumeSession {
            namespace: stage.ns(),
            session_id: welcome.session_id.clone(),
        }));
        let frames = tokio_stream::StreamExt::chain(tokio_stream::once(resume), tokio_stream::pending());
        let mut answers = stage.sessions().connect(frames).await.unwrap().into_inner();
        let again = soon("the welcome", answers.message()).await.unwrap().expect("a frame");
        let Some(v1::connect_response::Frame::Welcome(again)) = again.frame else {
            panic!("{again:?}");
        };
        assert_eq!((again.session_id, again.resumed), (welcome.session_id, true));
    })
    .await;
}
