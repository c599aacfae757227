package strongroom.spark;

import java.io.IOException;
import java.io.OutputStream;
import java.net.URI;
import java.util.EnumSet;
import org.apache.hadoop.conf.Configuration;
import org.apache.hadoop.fs.CreateFlag;
import org.apache.hadoop.fs.FSDataInputStream;
import org.apache.hadoop.fs.FSDataOutputStream;
import org.apache.hadoop.fs.LocalFileSystem;
import org.apache.hadoop.fs.Options.ChecksumOpt;
import org.apache.hadoop.fs.Path;
import org.apache.hadoop.fs.permission.FsPermission;
import org.apache.hadoop.security.AccessControlException;
import org.apache.hadoop.util.Progressable;

/**
 * The local file system inside {@link Walls}: what {@code file:} means in a job.
 *
 * <p>It turns a plaintext write into an error that says why. What holds against a program that goes around Hadoop is the
 * kernel's confinement of the whole process (strongroom.workload.confinement).
 */
public class WalledFileSystem extends LocalFileSystem {
  @Override
  public void initialize(URI name, Configuration conf) throws IOException {
    super.initialize(name, conf);
    // A data set is exactly the files of its manifest, and each is authenticated: no .crc files beside them.
    setWriteChecksum(false);
    setVerifyChecksum(false);
  }

  @Override
  public FSDataInputStream open(Path path, int bufferSize) throws IOException {
    Walls.checkRead(path);
    return super.open(path, bufferSize);
  }

  @Override
  public FSDataOutputStream create(
      Path path,
      FsPermission permission,
      boolean overwrite,
      int bufferSize,
      short replication,
      long blockSize,
      Progressable progress)
      throws IOException {
    Walls.checkWrite(path, "create");
    return encrypted(
        path,
        super.create(path, permission, overwrite, bufferSize, replication, blockSize, progress));
  }

  @Override
  public FSDataOutputStream create(
      Path path,
      FsPermission permission,
      EnumSet<CreateFlag> flags,
      int bufferSize,
      short replication,
      long blockSize,
      Progressable progress,
      ChecksumOpt checksum)
      throws IOException {
    Walls.checkWrite(path, "create");
    return encrypted(
        path,
        super.create(
            path, permission, flags, bufferSize, replication, blockSize, progress, checksum));
  }

  @Override
  public FSDataOutputStream createNonRecursive(
      Path path,
      FsPermission permission,
      boolean overwrite,
      int bufferSize,
      short replication,
      long blockSize,
      Progressable progress)
      throws IOException {
    Walls.checkWrite(path, "create");
    return encrypted(
        path,
        super.createNonRecursive(
            path, permission, overwrite, bufferSize, replication, blockSize, progress));
  }

  @Override
  public FSDataOutputStream createNonRecursive(
      Path path,
      FsPermission permission,
      EnumSet<CreateFlag> flags,
      int bufferSize,
      short replication,
      long blockSize,
      Progressable progress)
      throws IOException {
    Walls.checkWrite(path, "create");
    return encrypted(
        path,
        super.createNonRecursive(
            path, permission, flags, bufferSize, replication, blockSize, progress));
  }

  @Override
  public FSDataOutputStream append(Path path, int bufferSize, Progressable progress)
      throws IOException {
    Walls.checkWrite(path, "create");
    if (Walls.inOutbox(path)) {
      throw new AccessControlException("refused to append to " + path);
    }
    return super.append(path, bufferSize, progress);
  }

  @Override
  public boolean rename(Path from, Path to) throws IOException {
    Walls.checkRename(from, to);
    return super.rename(from, to);
  }

  @Override
  public boolean delete(Path path, boolean recursive) throws IOException {
    Walls.checkWrite(path, "delete");
    return super.delete(path, recursive);
  }

  @Override
  public boolean mkdirs(Path path) throws IOException {
    Walls.checkWrite(path, "make the directory");
    return super.mkdirs(path);
  }

  @Override
  public boolean mkdirs(Path path, FsPermission permission) throws IOException {
    Walls.checkWrite(path, "make the directory");
    return super.mkdirs(path, permission);
  }

  @Override
  public boolean truncate(Path path, long length) throws IOException {
    Walls.checkWrite(path, "create");
    return super.truncate(path, length);
  }

  @Override
  public void createSymlink(Path target, Path link, boolean createParent) throws IOException {
    throw new AccessControlException("a job makes no links");
  }

  @Override
  public void copyFromLocalFile(boolean deleteSource, Path from, Path to) throws IOException {
    Walls.checkRead(from);
    Walls.checkWrite(to, "create");
    super.copyFromLocalFile(deleteSource, from, to);
  }

  @Override
  public void copyToLocalFile(boolean deleteSource, Path from, Path to) throws IOException {
    Walls.checkRead(from);
    Walls.checkWrite(to, "create");
    super.copyToLocalFile(deleteSource, from, to);
  }

  /** Lets a Parquet file into the outbox only if it starts as one with an encrypted footer does. */
  private static FSDataOutputStream encrypted(Path path, FSDataOutputStream output)
      throws IOException {
    boolean data = path.getName().endsWith(".parquet") && Walls.inOutbox(path);
    return data ? new FSDataOutputStream(new EncryptedOnly(path, output), null) : output;
  }

  private static final class EncryptedOnly extends OutputStream {
    private static final byte[] MAGIC = {'P', 'A', 'R', 'E'};
    private final Path path;
    private final OutputStream output;
    private int seen;

    EncryptedOnly(Path path, OutputStream output) {
      this.path = path;
      this.output = output;
    }

    private void check(int value) throws IOException {
      if (seen < MAGIC.length && MAGIC[seen++] != (byte) value) {
        throw new AccessControlException(
            "refused to write " + path + " in plaintext: write through room.write");
      }
    }

    @Override
    public void write(int value) throws IOException {
      check(value);
      output.write(value);
    }

    @Override
    public void write(byte[] data, int offset, int length) throws IOException {
      for (int i = 0; i < length && seen < MAGIC.length; i++) {
        check(data[offset + i]);
      }
      output.write(data, offset, length);
    }

    @Override
    public void flush() throws IOException {
      output.flush();
    }

    @Override
    public void close() throws IOException {
      output.close();
    }
  }
}
