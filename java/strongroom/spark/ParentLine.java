package strongroom.spark;

import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;

/** The line to the attested process that started this JVM: its standard output, taken before anything prints there. */
final class ParentLine {
  private static final PrintStream LINE =
      new PrintStream(new FileOutputStream(FileDescriptor.out), true, StandardCharsets.US_ASCII);

  private ParentLine() {}

  /** Sends everybody else's output to the log from now on. */
  static void take() {
    System.setOut(System.err);
  }

  static synchronized void say(String word, long number) {
    LINE.print(word + " " + number + "\n");
    LINE.flush();
  }

  static synchronized void hello(int port, String token) {
    LINE.print(port + " " + token + "\n");
    LINE.flush();
  }
}
