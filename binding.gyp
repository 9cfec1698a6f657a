# The native addon. scripts/libtorch/build.mjs runs node-gyp on this once per libtorch, in build/<key>/, and writes what it
# found beside it, in libtorch.gypi: include folders, library folder, libraries and the C++ standard of that libtorch.
{
  "includes": ["libtorch.gypi"],
  "targets": [
    {
      "target_name": "torch",
      "sources": [
        "native/addon.cc",
        "native/attention.cc",
        "native/autograd.cc",
        "native/convert.cc",
        "native/device.cc",
        "native/dispatch.cc",
        "native/distributed.cc",
        "native/error.cc",
        "native/gradient-buckets.cc",
        "native/group.cc",
        "native/lifeline.cc",
        "native/memory.cc",
        "native/messages.cc",
        "native/random.cc",
        "native/tensor.cc",
      ],
      "include_dirs": [
        "<(addon_api)",
        "<@(torch_includes)",
      ],
      "defines": ["NAPI_VERSION=8", "NODE_ADDON_API_CPP_EXCEPTIONS", "<@(torch_defines)"],
      "cflags!": ["-fno-exceptions"],
      "cflags_cc!": ["-fno-exceptions", "-fno-rtti", "-std=gnu++17", "-std=gnu++20"],
      "cflags_cc": [
        "-std=<(torch_standard)",
        "-fexceptions",
        "-frtti",
        "-fvisibility=hidden",
        "-Wall",
      ],
      "libraries": ["-L<(torch_library_folder)", "<@(torch_libraries)", "-Wl,-rpath,<(torch_library_folder)"],
      "conditions": [
        [
          "OS=='mac'",
          {
            "xcode_settings": {
              "GCC_ENABLE_CPP_EXCEPTIONS": "YES",
              "GCC_ENABLE_CPP_RTTI": "YES",
              "CLANG_CXX_LANGUAGE_STANDARD": "<(torch_standard)",
              "MACOSX_DEPLOYMENT_TARGET": "12.0",
            }
          },
        ]
      ],
    }
  ]
}
