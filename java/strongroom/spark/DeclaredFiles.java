package strongroom.spark;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Collections;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FileStatus;
import org.apache.hadoop.fs.FileSystem;
import org.apache.hadoop.fs.Path;
import org.apache.parquet.crypto.ParquetCryptoRuntimeException;

/**
 * Holds which files a read may open, with the size and footer digest that their signed manifest names.
 *
 * <p>The driver verifies the manifest and passes the list as a read option: lines of {@code size digest path}. A file that is
 * not in it, or is no longer what it was, is not opened.
 */
final class DeclaredFiles {
  static final String OPTION = "strongroom.read.files";

  private static final int MAX_FOOTER = 64 << 20;
  private static final int TRAILER = 8; // footer length, then PARE
  private static final int REMEMBERED = 64;
  private static final Map<String, DeclaredFiles> PARSED =
      Collections.synchronizedMap(
          new LinkedHashMap<>(REMEMBERED, 0.75f, true) {
            private static final long serialVersionUID = 1L;

            @Override
            protected boolean removeEldestEntry(Map.Entry<String, DeclaredFiles> eldest) {
              return size() > REMEMBERED;
            }
          });

  private record Expected(long size, byte[] digest) {}

  private final Map<String, Expected> files = new HashMap<>();

  static DeclaredFiles of(Configuration conf) {
    return PARSED.computeIfAbsent(conf.get(OPTION, ""), DeclaredFiles::new);
  }

  private DeclaredFiles(String lines) {
    for (String line : lines.split("\n")) {
      String[] parts = line.split(" ", 3);
      if (parts.length == 3) {
        byte[] digest = HexFormat.of().parseHex(parts[1]);
        files.put(parts[2], new Expected(Long.parseLong(parts[0]), digest));
      }
    }
  }

  /** Returns the footer of {@code path} (key metadata included) after comparing size and SHA-256. */
  byte[] verifiedFooter(Path path, Configuration conf) {
    Expected expected = files.get(path.toUri().getPath());
    if (expected == null) {
      throw new ParquetCryptoRuntimeException(
          "refused to open " + path + ": it is not a declared input file");
    }
    try {
      FileSystem system = path.getFileSystem(conf);
      FileStatus status = system.getFileStatus(path);
      if (status.getLen() != expected.size) {
        throw refusal(path, "its size is " + status.getLen() + ", not " + expected.size);
      }
      byte[] footer = footer(system, path, expected.size);
      if (!MessageDigest.isEqual(expected.digest, sha256(footer))) {
        throw refusal(path, "its footer is not the one in the manifest");
      }
      return footer;
    } catch (IOException error) {
      throw new ParquetCryptoRuntimeException("cannot verify " + path, error);
    }
  }

  private static byte[] footer(FileSystem system, Path path, long size) throws IOException {
    try (FSDataInputStream input = system.open(path)) {
      byte[] trailer = new byte[TRAILER];
      input.readFully(size - TRAILER, trailer);
      boolean encrypted =
          trailer[4] == 'P' && trailer[5] == 'A' && trailer[6] == 'R' && trailer[7] == 'E';
      if (!encrypted) {
        throw refusal(path, "it is not Parquet with an encrypted footer");
      }
      int length = ByteBuffer.wrap(trailer).order(ByteOrder.LITTLE_ENDIAN).getInt();
      if (length <= 0 || length > MAX_FOOTER || length > size - TRAILER) {
        throw refusal(path, "its footer has " + length + " bytes");
      }
      byte[] footer = new byte[length + TRAILER];
      input.readFully(size - footer.length, footer);
      return footer;
    }
  }

  private static byte[] sha256(byte[] data) {
    try {
      return MessageDigest.getInstance("SHA-256").digest(data);
    } catch (NoSuchAlgorithmException error) {
      throw new IllegalStateException(error); // Every Java has SHA-256.
    }
  }

  private static ParquetCryptoRuntimeException refusal(Path path, String reason) {
    return new ParquetCryptoRuntimeException("refused to open " + path + ": " + reason);
  }
}
