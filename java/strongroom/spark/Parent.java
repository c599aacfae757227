package strongroom.spark;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Comparator;
import java.util.stream.Stream;

/**
 * Ends this JVM when the attested process that started it ends, and leaves no file behind.
 *
 * <p>Standard input stays open as long as the parent lives; end of file means that it is gone.
 */
final class Parent {
  private static final int GONE = 130;
  private static final long PATIENCE_MS = 5_000;

  private Parent() {}

  static void watch(InputStream input) {
    Thread watcher =
        new Thread(
            () -> {
              try {
                while (input.read() >= 0) {
                  continue; // Nothing more is ever said on this line.
                }
              } catch (IOException error) {
                // A broken line means the same as its end.
              }
              end();
            },
            "strongroom-parent");
    watcher.setDaemon(true);
    watcher.start();
  }

  private static void end() {
    Thread limit =
        new Thread(
            () -> {
              try {
                Thread.sleep(PATIENCE_MS);
              } catch (InterruptedException error) {
                Thread.currentThread().interrupt();
              }
              Runtime.getRuntime().halt(GONE);
            },
            "strongroom-limit");
    limit.setDaemon(true);
    limit.start();
    try {
      erase(System.getProperty("strongroom.scratch"));
    } finally {
      Runtime.getRuntime().halt(GONE);
    }
  }

  private static void erase(String directory) {
    if (directory == null) {
      return;
    }
    try (Stream<Path> paths = Files.walk(Path.of(directory))) {
      paths.sorted(Comparator.reverseOrder()).forEach(path -> path.toFile().delete());
    } catch (IOException | UncheckedIOException error) {
      // The directory is memory; it goes with the TEE.
    }
  }
}
