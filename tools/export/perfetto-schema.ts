import protobuf from 'protobufjs/light.js';

/** A message of a proto2 file: zeros and empty texts that are set are written. */
function message(fields: object, nested: object = {}): object {
  return { edition: 'proto2', fields, nested };
}

/**
 * The messages of Perfetto's published schema that a trace of ours needs, with its names and numbers
 * (protos/perfetto/trace/trace.proto, trace_packet.proto, and those in track_event). A reader with the whole schema
 * understands them.
 */
const MESSAGES = {
  Trace: message({ packet: { rule: 'repeated', type: 'TracePacket', id: 1 } }),
  TracePacket: message({
    timestamp: { type: 'uint64', id: 8 },
    trustedPacketSequenceId: { type: 'uint32', id: 10 },
    trackEvent: { type: 'TrackEvent', id: 11 },
    sequenceFlags: { type: 'uint32', id: 13 },
    trackDescriptor: { type: 'TrackDescriptor', id: 60 },
  }),
  TrackDescriptor: message(
    {
      uuid: { type: 'uint64', id: 1 },
      name: { type: 'string', id: 2 },
      process: { type: 'ProcessDescriptor', id: 3 },
      parentUuid: { type: 'uint64', id: 5 },
      childOrdering: { type: 'ChildTracksOrdering', id: 11 },
      siblingOrderRank: { type: 'int32', id: 12 },
    },
    { ChildTracksOrdering: { values: { UNKNOWN: 0, LEXICOGRAPHIC: 1, CHRONOLOGICAL: 2, EXPLICIT: 3 } } },
  ),
  ProcessDescriptor: message({ pid: { type: 'int32', id: 1 }, processName: { type: 'string', id: 6 } }),
  TrackEvent: message(
    {
      debugAnnotations: { rule: 'repeated', type: 'DebugAnnotation', id: 4 },
      type: { type: 'Type', id: 9 },
      trackUuid: { type: 'uint64', id: 11 },
      categories: { rule: 'repeated', type: 'string', id: 22 },
      name: { type: 'string', id: 23 },
      flowIds: { rule: 'repeated', type: 'fixed64', id: 47 },
      terminatingFlowIds: { rule: 'repeated', type: 'fixed64', id: 48 },
    },
    { Type: { values: { TYPE_UNSPECIFIED: 0, TYPE_SLICE_BEGIN: 1, TYPE_SLICE_END: 2, TYPE_INSTANT: 3 } } },
  ),
  DebugAnnotation: message({
    intValue: { type: 'int64', id: 4 },
    stringValue: { type: 'string', id: 6 },
    name: { type: 'string', id: 10 },
  }),
};

/** `perfetto.protos.Trace`. */
export const TRACE = protobuf.Root.fromJSON({
  nested: { perfetto: { nested: { protos: { nested: MESSAGES } } } },
}).lookupType('perfetto.protos.Trace');
