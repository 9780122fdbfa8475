//! Between JSON in Hubble's shape, which filters and the Unix socket know, and the messages that clients speak: protobuf's own
//! mapping, by the descriptors of `proto/`.

use std::marker::PhantomData;
use std::sync::LazyLock;

use prost::bytes::{Buf, Bytes};
use prost::{Message, Name};
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage, SerializeOptions, Value,
};
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder};
use tonic_prost::ProstEncoder;

/// The descriptors of `proto/`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hubble.bin"));

static POOL: LazyLock<DescriptorPool> =
    LazyLock::new(|| DescriptorPool::decode(DESCRIPTORS).expect("the build wrote them"));

pub fn descriptor<T: Name>() -> MessageDescriptor {
    POOL.get_message_by_name(&T::full_name()).expect("the build wrote both from the same files")
}

/// JSON in protobuf's form as a message.
pub fn from_json<T: Name + Default>(json: &serde_json::Value) -> Result<T, Status> {
    let wrong = |error: &dyn std::fmt::Display| Status::internal(format!("{}: {error}", T::NAME));
    let message = DynamicMessage::deserialize(descriptor::<T>(), json).map_err(|error| wrong(&error))?;
    message.transcode_to().map_err(|error| wrong(&error))
}

/// A message as JSON, with the fields that it has under the names that they have in `proto/`.
pub fn to_json<T: Name>(message: &T) -> Result<serde_json::Value, Status> {
    let wrong = |error: &dyn std::fmt::Display| Status::internal(format!("{}: {error}", T::NAME));
    let mut whole = DynamicMessage::new(descriptor::<T>());
    whole.transcode_from(message).map_err(|error| wrong(&error))?;
    let options = SerializeOptions::new().use_proto_field_name(true);
    whole.serialize_with_options(serde_json::value::Serializer, &options).map_err(|error| wrong(&error))
}

/// Protobuf that refuses what it does not know: a field that was skipped could have been a filter.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Name + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = Strict<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstEncoder::default()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Strict(PhantomData)
    }
}

#[derive(Debug)]
pub struct Strict<U>(PhantomData<U>);

impl<U: Name + Default> Decoder for Strict<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        read(from.copy_to_bytes(from.remaining())).map(Some)
    }
}

/// A message, of nothing but fields that we know.
pub fn read<T: Name + Default>(bytes: Bytes) -> Result<T, Status> {
    let wrong = |error: prost::DecodeError| Status::invalid_argument(format!("{}: {error}", T::NAME));
    let whole = DynamicMessage::decode(descriptor::<T>(), bytes.clone()).map_err(wrong)?;
    match unknown(&whole) {
        Some(field) => Err(Status::invalid_argument(format!("there is no {field} here"))),
        None => T::decode(bytes).map_err(wrong),
    }
}

/// A field that `proto/` has no name for.
fn unknown(message: &DynamicMessage) -> Option<String> {
    if let Some(field) = message.unknown_fields().next() {
        return Some(format!("field {} of {}", field.number(), message.descriptor().full_name()));
    }
    message.fields().find_map(|(_, value)| match value.as_list() {
        Some(list) => list.iter().filter_map(Value::as_message).find_map(unknown),
        None => value.as_message().and_then(unknown),
    })
}
