// Running something that ends the program, in a process of its own.
#pragma once
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <string>

namespace tessera_test {

struct Child {
  bool failed;         // ended with another status than 0
  std::string errors;  // what it wrote to the standard error stream
};
enum class Ending { at_once, exit };

/// Runs f in a child process, which then ends at once or (Ending::exit) as a program ends.
template <class F>
Child in_child(F&& f, Ending ending = Ending::at_once) {
  std::fflush(nullptr);
  int ends[2];
  if (pipe(ends) != 0) return {false, "no pipe"};
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], 2);
    close(ends[0]);
    close(ends[1]);
    f();
    if (ending == Ending::exit) std::exit(0);
    _exit(0);
  }
  close(ends[1]);
  std::string errors;
  char buffer[4096];
  for (ssize_t n; (n = read(ends[0], buffer, sizeof buffer)) > 0;) errors.append(buffer, size_t(n));
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  return {status != 0, errors};
}

}  // namespace tessera_test
