// What the bindings of TensorRT 8.6 to 11 need from its libraries in order to be imported. Nothing here works.
#define NOTHING(name) void *name(void) { return 0; }
NOTHING(createInferBuilder_INTERNAL)
NOTHING(createInferRefitter_INTERNAL)
NOTHING(createInferRuntime_INTERNAL)
NOTHING(createNvOnnxParser_INTERNAL)
NOTHING(createNvOnnxParserRefitter_INTERNAL)
NOTHING(getBuilderPluginRegistry)
NOTHING(getPluginRegistry)
NOTHING(initLibNvInferPlugins)
int getInferLibVersion(void) { return 0; }
int getNvOnnxParserVersion(void) { return 0; }
// 8.6 alone: its parsers of other formats.
NOTHING(_ZN11nvuffparser15createUffParserEv)
NOTHING(_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi)
NOTHING(_ZN14nvcaffeparser117createCaffeParserEv)
NOTHING(_ZN14nvcaffeparser123shutdownProtobufLibraryEv)
