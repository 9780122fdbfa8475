"""A client of gRPC that knows nothing of Hubble: it asks the server for its descriptors.

hubble.py ADDRESS SERVICE/METHOD [REQUEST as JSON [COUNT]] prints the headers, then each answer (COUNT at most) as JSON, a
line each; or what the server says against it, and exits 1.
"""

import json
import sys

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory

SECONDS = 20
REFLECTION = "grpc.reflection.v1alpha"
BYTES, STRING, MESSAGE = 12, 9, 11


def reflection():
    """The messages of the reflection service, as far as they are needed here."""
    file = descriptor_pb2.FileDescriptorProto(name="reflection.proto", package=REFLECTION, syntax="proto3")
    for name, fields in {
        "ServerReflectionRequest": [("file_by_filename", 3, STRING, None), ("file_containing_symbol", 4, STRING, None)],
        "FileDescriptorResponse": [("file_descriptor_proto", 1, BYTES, None)],
        "ServerReflectionResponse": [("file_descriptor_response", 4, MESSAGE, "FileDescriptorResponse")],
    }.items():
        message = file.message_type.add(name=name)
        for field, number, kind, of in fields:
            told = message.field.add(name=field, number=number, type=kind, label=3 if kind == BYTES else 1)
            if of:
                told.type_name = f".{REFLECTION}.{of}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [message_class(pool, f"{REFLECTION}.ServerReflection{which}") for which in ("Request", "Response")]


def message_class(pool, name):
    return message_factory.MessageFactory(pool).GetPrototype(pool.FindMessageTypeByName(name))


def descriptors(channel, service):
    """A pool with the file that tells of the service, and those that it needs."""
    request, response = reflection()
    ask = channel.stream_stream(
        f"/{REFLECTION}.ServerReflection/ServerReflectionInfo", request.SerializeToString, response.FromString
    )

    def files(**asked):
        answer = next(ask(iter([request(**asked)]), timeout=SECONDS))
        found = answer.file_descriptor_response.file_descriptor_proto
        return [descriptor_pb2.FileDescriptorProto.FromString(each) for each in found]

    pool, known = descriptor_pool.DescriptorPool(), set()

    def add(file):
        if file.name in known:
            return
        known.add(file.name)
        for needed in file.dependency:
            for other in files(file_by_filename=needed):
                add(other)
        pool.Add(file)

    for file in files(file_containing_symbol=service):
        add(file)
    return pool


def read(asked, request):
    """The request that this JSON stands for. A mask is a list of paths: the form that JSON has for it cannot name all fields."""
    paths = asked.pop("field_mask", None)
    json_format.ParseDict(asked, request)
    if paths:
        request.field_mask.paths.extend(paths)
    return request


def say(value):
    print(json.dumps(value, sort_keys=True), flush=True)


def main():
    address, path = sys.argv[1:3]
    asked = sys.argv[3] if len(sys.argv) > 3 else "{}"
    most = int(sys.argv[4]) if len(sys.argv) > 4 else None
    service, name = path.split("/")
    channel = grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)])
    pool = descriptors(channel, service)
    method = pool.FindServiceByName(service).methods_by_name[name]
    request = message_class(pool, method.input_type.full_name)
    response = message_class(pool, method.output_type.full_name)
    # Whether it streams is in the descriptor, but Python does not tell everywhere: a stream of one will do.
    call = channel.unary_stream(f"/{path}", request.SerializeToString, response.FromString)
    answers = call(read(json.loads(asked), request()), timeout=SECONDS)
    try:
        say({"headers": dict(answers.initial_metadata())})
        for count, answer in enumerate(answers, 1):
            say(json_format.MessageToDict(answer, preserving_proto_field_name=True))
            if count == most:
                answers.cancel()
                break
    except grpc.RpcError as error:
        say({"error": error.code().name, "details": error.details()})
        sys.exit(1)


main()
