"""Caffe's binary messages: Datum, and of NetParameter what holds weights. Numbers and types from caffe.proto.

The classes are made when this file is imported, without protoc. Fields that we never read are left out on purpose: forks of
Caffe gave the same number to different fields, and what a message does not declare cannot fail to parse.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_MESSAGES = {  # message -> "[repeated] type name = number"
    "BlobShape": ["repeated int64 dim = 1"],
    "BlobProto": [
        "int32 num = 1",
        "int32 channels = 2",
        "int32 height = 3",
        "int32 width = 4",
        "repeated float data = 5",
        "BlobShape shape = 7",
        "repeated double double_data = 8",
    ],
    "Datum": [
        "int32 channels = 1",
        "int32 height = 2",
        "int32 width = 3",
        "bytes data = 4",
        "int32 label = 5",
        "repeated float float_data = 6",
        "bool encoded = 7",
        "string dtype = 1000",  # ours: the pixel type behind float_data; Caffe passes over numbers that it does not know
    ],
    "LayerParameter": [
        "string name = 1",
        "string type = 2",
        "repeated string bottom = 3",
        "repeated string top = 4",
        "repeated BlobProto blobs = 7",
    ],
    "V1LayerParameter": [
        "repeated string bottom = 2",
        "repeated string top = 3",
        "string name = 4",
        "int32 type = 5",  # an enum, of which only the numbers are needed
        "repeated BlobProto blobs = 6",
    ],
    "NetParameter": [
        "string name = 1",
        "repeated V1LayerParameter layers = 2",
        "repeated string input = 3",
        "repeated LayerParameter layer = 100",
    ],
    "SolverState": [
        "int32 iter = 1",
        "string learned_net = 2",
        "repeated BlobProto history = 3",
    ],
}
# The same bytes as a BlobProto that holds only packed floats: a way to write many floats at once.
_MESSAGES["RawBlob"] = ["bytes data = 5"]
_UNPACKED = {("Datum", "float_data")}  # Caffe packs all other repeated numbers


def _field(message: str, declaration: str) -> descriptor_pb2.FieldDescriptorProto:
    *words, name, _, number = declaration.split()
    field = descriptor_pb2.FieldDescriptorProto(name=name, number=int(number))
    field.label = field.LABEL_REPEATED if words[0] == "repeated" else field.LABEL_OPTIONAL
    kind = words[-1]
    if kind in _MESSAGES:
        field.type, field.type_name = field.TYPE_MESSAGE, f".caffe.{kind}"
    else:
        field.type = getattr(field, f"TYPE_{kind.upper()}")
        if words[0] == "repeated" and kind != "string" and (message, name) not in _UNPACKED:
            field.options.packed = True
    return field


def _classes() -> dict[str, type]:
    file = descriptor_pb2.FileDescriptorProto(name="orthonets/caffe.proto", package="caffe", syntax="proto2")
    for name, declarations in _MESSAGES.items():
        file.message_type.add(name=name).field.extend(_field(name, line) for line in declarations)
    pool = descriptor_pool.DescriptorPool()  # our own: another library may have registered Caffe's messages already
    pool.AddSerializedFile(file.SerializeToString())
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}")) for name in _MESSAGES}


_made = _classes()
BlobProto, Datum, LayerParameter = _made["BlobProto"], _made["Datum"], _made["LayerParameter"]
V1LayerParameter, NetParameter = _made["V1LayerParameter"], _made["NetParameter"]
RawBlob, SolverState = _made["RawBlob"], _made["SolverState"]
