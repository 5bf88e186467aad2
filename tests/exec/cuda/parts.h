// Helper for programs that contain several tests: runs the test that the command line names.
#pragma once

#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <string>

namespace sbrt {

// Runs the part that argv[1] names. Returns the exit code: 0 if the part succeeds, 1 if it throws,
// 2 if no part has that name.
inline int run_part(const std::map<std::string, std::function<void()>>& parts, int argc,
                    char** argv) {
  const auto part = parts.find(argc > 1 ? argv[1] : "");
  if (part == parts.end()) {
    std::printf("usage: %s PART, one of:", argv[0]);
    for (const auto& [name, unused] : parts) std::printf(" %s", name.c_str());
    std::printf("\n");
    return 2;
  }
  try {
    part->second();
  } catch (const std::exception& error) {
    std::printf("FAILED: %s\n", error.what());
    return 1;
  }
  std::printf("ok %s\n", argv[1]);
  return 0;
}

}  // namespace sbrt
