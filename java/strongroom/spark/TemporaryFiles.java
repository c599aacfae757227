package strongroom.spark;

import java.io.File;
import java.io.IOException;

/**
 * Separates the files that this JVM loads code from and the ones that Python workers may touch.
 *
 * <p>Java decides once where its temporary files lie, native libraries among them: a directory that is closed to Python
 * workers, since who changes a mapped library changes the code of this JVM. Spark reads {@code java.io.tmpdir} again to
 * place the sockets that it shares with them, and gets another directory.
 */
final class TemporaryFiles {
  private TemporaryFiles() {}

  static void separate() throws IOException {
    File first = File.createTempFile("strongroom", "");
    if (!first.getParent().equals(System.getProperty("java.io.tmpdir")) || !first.delete()) {
      throw new IOException("temporary files lie in " + first.getParent());
    }
    System.setProperty("java.io.tmpdir", System.getProperty("strongroom.shared"));
  }
}
